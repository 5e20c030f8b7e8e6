//! Files of packed weights draw the picture of the same weights expanded, however they lie in memory.

use std::{
    fs,
    path::{Path, PathBuf},
};

use candle_core::{DType, Device};
use diffusion_service::engine::{LoraChoice, Picture};
use encoder_service::engine::EncodeJob;
use llm_dit_chat::{Chat, ChatTokenizer};
use llm_dit_kernels::Format;
use llm_dit_params::{
    GenerateOptions,
    LoraPass::{Both, Positive},
};
use llm_dit_qwen3::EncoderOptions;
use llm_dit_testkit::repository;
use llm_dit_tests::{
    demo::{Demo, blueprint, psnr},
    forms::{NativeNames, State, Stored, demo_file},
    packed::{Gguf, Layout, Pair, Random, comfy, gguf},
};
use llm_dit_weights::{Checkpoint, DeviceChoice, Packing, Part, PartFiles, Residency};
use llm_dit_z_image::{DiffusionOptions, dit};
use tempfile::TempDir;

const SIZE: (u32, u32) = (64, 96);

/// The demo model with some parts from files.
#[derive(Clone, Default)]
struct Files {
    dit: Option<PathBuf>,
    text_encoder: Option<PathBuf>,
    packing: Packing,
    loras: Vec<LoraChoice>,
    residency: Residency,
}

impl Files {
    fn dit(path: &Path, packing: Packing) -> Self {
        Self { dit: Some(path.to_owned()), packing, ..Self::default() }
    }

    /// Once with guidance, and once from a picture.
    fn draw(&self) -> Vec<u8> {
        let model_path = repository("models/demo");
        let (device, packing, residency) = (DeviceChoice::Cpu, self.packing, self.residency);
        let mut demo = Demo::open(
            &EncoderOptions {
                model_path: model_path.clone(),
                text_encoder_path: self.text_encoder.clone(),
                device,
                packing,
                residency,
                ..Default::default()
            },
            &DiffusionOptions {
                model_path,
                dit_path: self.dit.clone(),
                device,
                packing,
                residency,
                loras: self.loras.clone(),
                ..Default::default()
            },
        );
        let options = GenerateOptions {
            width: Some(SIZE.0),
            height: Some(SIZE.1),
            steps: Some(2),
            seed: Some(5),
            guidance_scale: Some(1.0),
            ..Default::default()
        };
        let mut pixels = demo.draw("a red apple", "blurry", options.clone());
        let rgb = (0..SIZE.0 * SIZE.1 * 3).map(|i| (i % 251) as u8).collect();
        let picture = Picture { width: SIZE.0, height: SIZE.1, rgb };
        pixels.extend(demo.draw_from("a rocket", "", options, Some(picture), None));
        pixels
    }
}

/// The same weights as plain f32, under the file's names.
fn twin(file: &Path, names: &[String], path: &Path) {
    let naming: fn(&[&str]) -> Vec<Vec<Part>> =
        |names| names.iter().map(|name| vec![Part::whole(*name)]).collect();
    let part = PartFiles::File(file.to_owned());
    let weights = Checkpoint::open(&part, naming, &Device::Cpu, DType::F32, Packing::Expanded)
        .expect("opens");
    let mut state = State::default();
    for name in names {
        let shape = weights.shape(name).expect("a tensor");
        let values = weights.get(name, &shape).expect("values").flatten_all();
        let values = values.and_then(|x| x.to_vec1()).expect("f32");
        state.0.insert(name.clone(), Stored::f32(&shape, &values));
    }
    state.write(path);
}

/// The picture of a file, packed and expanded, is that of its twin; and it is a picture.
fn assert_draws_its_twin(what: &str, file: &Path, names: &[String]) -> Vec<u8> {
    let path = file.with_file_name("twin.safetensors");
    twin(file, names, &path);
    let expected = Files::dit(&path, Packing::Expanded).draw();
    let distinct: std::collections::BTreeSet<&u8> = expected.iter().collect();
    assert!(distinct.len() > 50, "{what}: {} values", distinct.len());
    for packing in [Packing::Packed, Packing::Expanded] {
        let drawn = Files::dit(file, packing).draw();
        assert!(drawn == expected, "{what}, {packing:?}: {} dB", psnr(&drawn, &expected));
    }
    expected
}

fn native() -> State {
    State::read(&demo_file("transformer")).native(&NativeNames::open().dit)
}

#[test]
fn every_type_of_32_weights_draws_its_twin() {
    let folder = TempDir::new().expect("a folder");
    let file = folder.path().join("dit.gguf");
    let native = native();
    let demo = Files::default().draw();
    for format in [
        Format::F32,
        Format::F16,
        Format::Bf16,
        Format::Q4_0,
        Format::Q4_1,
        Format::Q5_0,
        Format::Q5_1,
        Format::Q8_0,
        Format::Iq4Nl,
    ] {
        let packed = gguf(&native, |_, _| format);
        packed.write(&file);
        let drawn = assert_draws_its_twin(format.name(), &file, &packed.names());
        if format == Format::Q8_0 {
            let near = psnr(&drawn, &demo);
            assert!(near > 30.0, "Q8_0 is at {near} dB from the model itself");
        }
    }
}

/// A transformer whose rows are whole blocks of 256.
fn wide() -> State {
    let mut config = dit::Config::z_image();
    (config.dim, config.n_layers, config.n_refiner_layers) = (768, 2, 1);
    (config.n_heads, config.n_kv_heads, config.cap_feat_dim) = (12, 12, 192);
    config.axes_dims = vec![16, 24, 24];
    let mut random = Random(3);
    let tensors = dit::tensors(&config).into_iter().map(|(name, shape)| {
        let count = shape.iter().product();
        let mean = if shape.len() == 1 && name.ends_with("weight") { 1.0 } else { 0.0 };
        let values: Vec<f32> = (0..count).map(|_| mean + random.normal(0.03)).collect();
        let stored = Stored::f32(&shape, &values);
        (name, stored)
    });
    State(tensors.collect())
}

#[test]
fn every_type_of_256_weights_draws_its_twin() {
    let folder = TempDir::new().expect("a folder");
    let file = folder.path().join("dit.gguf");
    let wide = wide();
    let formats = [Format::Q2K, Format::Q3K, Format::Q4K, Format::Q5K, Format::Q6K, Format::Iq4Xs];
    for first in formats {
        // A mixture, as such files are: one type after the other, beginning with each.
        let at = formats.iter().position(|format| *format == first).unwrap_or(0);
        let mut count = at;
        let mixed = gguf(&wide, |_, columns| {
            count += usize::from(columns % 256 == 0);
            formats[count % formats.len()]
        });
        mixed.write(&file);
        assert_draws_its_twin(first.name(), &file, &mixed.names());
    }
}

#[test]
fn every_layout_of_comfyui_draws_its_twin() {
    let folder = TempDir::new().expect("a folder");
    let file = folder.path().join("dit.safetensors");
    let (native, wide) = (native(), wide());
    let demo = Files::default().draw();
    for (layout, format) in [
        (Layout::Plain, Format::E4m3),
        (Layout::Plain, Format::E5m2),
        (Layout::Older, Format::E4m3),
        (Layout::Older, Format::E5m2),
        (Layout::Mixed, Format::E4m3),
        (Layout::Mixed, Format::E5m2),
        (Layout::Mixed, Format::Int8 { group: 0 }),
        (Layout::Mixed, Format::Nvfp4),
        (Layout::Mixed, Format::Mxfp8),
    ] {
        let what = format!("{layout:?} {}", format.name());
        let prefix = "model.diffusion_model.";
        comfy(&native, layout, format).prefixed(prefix).write(&file);
        let names: Vec<String> = native.prefixed(prefix).0.into_keys().collect();
        let drawn = assert_draws_its_twin(&what, &file, &names);
        let near = psnr(&drawn, &demo);
        println!("{what}: {near} dB from the model itself");
        assert!(near > 10.0, "{what}: {near} dB from the model itself");
    }
    comfy(&wide, Layout::Mixed, Format::Int8 { group: 256 }).write(&file);
    let names: Vec<String> = wide.0.into_keys().collect();
    assert_draws_its_twin("convrot", &file, &names);
}

#[test]
fn the_names_of_every_program_are_read() {
    let folder = TempDir::new().expect("a folder");
    let file = folder.path().join("dit.gguf");
    let draw = || Files::dit(&file, Packing::Packed).draw();
    let plain = gguf(&native(), |_, _| Format::Q8_0);
    plain.write(&file);
    let expected = draw();

    // A name of another architecture, and a tensor that is left over.
    let mut theirs = plain.clone();
    theirs.pairs.push(("general.architecture".into(), Pair::Text("lumina2".into())));
    theirs.pairs.push(("general.file_type".into(), Pair::Whole(7)));
    let norm = vec![0; 192 * 4];
    theirs.tensors.push(("norm_final.weight".into(), vec![192], Format::F32, norm));
    for (name, ..) in &mut theirs.tensors {
        *name = format!("model.diffusion_model.{name}");
    }
    theirs.write(&file);
    assert!(draw() == expected, "with a prefix");

    // Projections apart, as stable-diffusion.cpp writes those of a diffusers folder; pads of two axes.
    let mut apart = Gguf::default();
    for (name, shape, format, data) in &plain.tensors {
        if name.ends_with("attention.qkv.weight") {
            let shape = vec![shape[0] / 3, shape[1]];
            for (i, data) in data.chunks(data.len() / 3).enumerate() {
                let name = if i == 0 { name.clone() } else { format!("{name}.{i}") };
                apart.tensors.push((name, shape.clone(), *format, data.to_vec()));
            }
            continue;
        }
        let shape = if name.ends_with("pad_token") { vec![1, shape[0]] } else { shape.clone() };
        apart.tensors.push((name.clone(), shape, *format, data.clone()));
    }
    apart.write(&file);
    assert!(draw() == expected, "with projections apart");

    // Loaded for each use.
    let offloaded =
        Files { residency: Residency::InUse, ..Files::dit(&file, Packing::Packed) }.draw();
    assert!(offloaded == expected, "with offloading");
}

#[test]
fn loras_go_on_top_of_packed_weights() {
    let folder = TempDir::new().expect("a folder");
    let file = folder.path().join("dit.gguf");
    gguf(&native(), |_, _| Format::Q8_0).write(&file);
    let draw = |packing, loras| Files { loras, ..Files::dit(&file, packing) }.draw();
    let without = draw(Packing::Packed, vec![]);
    let fused = draw(Packing::Expanded, vec![blueprint()]);
    let beside = draw(Packing::Packed, vec![blueprint()]);
    assert!(psnr(&without, &fused) < 40.0, "the LoRA changes the picture");
    let near = psnr(&beside, &fused);
    assert!(near > 50.0, "{near} dB");

    let too_much = LoraChoice { scale: 1e8, ..blueprint() };
    let options = DiffusionOptions {
        model_path: repository("models/demo"),
        dit_path: Some(file.clone()),
        device: DeviceChoice::Cpu,
        packing: Packing::Packed,
        dtype: Some(llm_dit_proto::DType::F16),
        loras: vec![too_much],
        ..Default::default()
    };
    let error = llm_dit_z_image::load(&options).err().expect("is refused").to_string();
    assert!(error.contains("lower their scales"), "{error}");
}

#[test]
fn a_lora_for_positive_prompts_only_goes_on_top_of_packed_weights() {
    let folder = TempDir::new().expect("a folder");
    let file = folder.path().join("dit.gguf");
    gguf(&native(), |_, _| Format::Q8_0).write(&file);
    let blueprint = |scale, pass| LoraChoice { scale, pass, ..blueprint() };
    let draw = |packing, residency, loras: &[LoraChoice]| {
        Files { loras: loras.to_vec(), residency, ..Files::dit(&file, packing) }.draw()
    };
    let (always, packed) = (Residency::Always, Packing::Packed);
    for (loras, in_both) in [
        (vec![blueprint(1.0, Positive)], blueprint(1.0, Both)),
        (vec![blueprint(0.3, Both), blueprint(0.7, Positive)], blueprint(1.0, Both)),
    ] {
        let expanded = draw(Packing::Expanded, always, &loras);
        let both = draw(packed, always, &[in_both]);
        assert!(psnr(&both, &expanded) < 40.0, "the pass makes a difference");
        let beside = draw(packed, always, &loras);
        let near = psnr(&beside, &expanded);
        println!("{near:.1} dB from the same over expanded weights");
        assert!(near > 50.0, "{near} dB");
        assert!(draw(packed, Residency::InUse, &loras) == beside, "with offloading");
    }
}

/// The demo's text encoder under the names of GGUF files, with its sizes and its tokenizer.
fn encoder() -> Gguf {
    let mut file = gguf(&State::read(&demo_file("text_encoder")), |_, _| Format::Q8_0);
    for (name, ..) in &mut file.tensors {
        *name = llama_name(name.strip_prefix("model.").unwrap_or(name));
    }
    let pairs = [
        ("general.architecture", Pair::Text("qwen3".into())),
        ("qwen3.attention.key_length", Pair::Whole(64)),
        ("qwen3.attention.layer_norm_rms_epsilon", Pair::Float(1e-6)),
        ("qwen3.rope.freq_base", Pair::Float(1e6)),
        ("qwen3.context_length", Pair::Whole(40_960)),
    ];
    file.pairs = pairs.map(|(key, value)| (key.to_owned(), value)).to_vec();
    file
}

fn llama_name(name: &str) -> String {
    const NAMES: [(&str, &str); 14] = [
        ("embed_tokens", "token_embd"),
        ("layers", "blk"),
        ("input_layernorm", "attn_norm"),
        ("post_attention_layernorm", "ffn_norm"),
        ("self_attn.q_proj", "attn_q"),
        ("self_attn.k_proj", "attn_k"),
        ("self_attn.v_proj", "attn_v"),
        ("self_attn.o_proj", "attn_output"),
        ("self_attn.q_norm", "attn_q_norm"),
        ("self_attn.k_norm", "attn_k_norm"),
        ("mlp.gate_proj", "ffn_gate"),
        ("mlp.up_proj", "ffn_up"),
        ("mlp.down_proj", "ffn_down"),
        ("lm_head", "output"),
    ];
    if name == "norm.weight" {
        return "output_norm.weight".into();
    }
    let renamed = NAMES.iter().fold(name.to_owned(), |name, (from, to)| {
        name.replace(&format!("{from}."), &format!("{to}."))
    });
    assert_ne!(renamed, name, "no name for it");
    renamed
}

/// `tokenizer.json` of the demo model in the parts of a GGUF file.
fn with_tokenizer(mut file: Gguf) -> Gguf {
    let folder = repository("models/demo/tokenizer");
    let text = |name: &str| fs::read_to_string(folder.join(name)).expect("a file");
    let json =
        |name: &str| -> serde_json::Value { serde_json::from_str(&text(name)).expect("JSON") };
    let vocab = json("vocab.json");
    let mut tokens: Vec<(u64, String, i32)> = vocab
        .as_object()
        .expect("tokens")
        .iter()
        .map(|(token, id)| (id.as_u64().expect("an id"), token.clone(), 1))
        .collect();
    let config = json("tokenizer_config.json");
    for (id, about) in config["added_tokens_decoder"].as_object().expect("added tokens") {
        let content = about["content"].as_str().expect("text").to_owned();
        let kind = if about["special"] == true { 3 } else { 4 };
        let id = id.parse().expect("an id");
        tokens.retain(|(known, ..)| *known != id);
        tokens.push((id, content, kind));
    }
    tokens.sort();
    // An id that no token has is one that is not used.
    let last = tokens.last().expect("tokens").0;
    for id in 0..last {
        if tokens.binary_search_by_key(&id, |(known, ..)| *known).is_err() {
            tokens.insert(id as usize, (id, format!("[PAD{id}]"), 5));
        }
    }
    let merges = text("merges.txt");
    let merges = merges.lines().filter(|line| !line.is_empty() && !line.starts_with("#version"));
    let pairs = [
        ("model", Pair::Text("gpt2".into())),
        ("pre", Pair::Text("qwen2".into())),
        ("tokens", Pair::Texts(tokens.iter().map(|(_, token, _)| token.clone()).collect())),
        ("token_type", Pair::Numbers(tokens.iter().map(|(.., kind)| *kind).collect())),
        ("merges", Pair::Texts(merges.map(str::to_owned).collect())),
    ];
    let pairs = pairs.map(|(key, value)| (format!("tokenizer.ggml.{key}"), value));
    file.pairs.extend(pairs);
    file
}

/// Draws with the text encoder of a packed file, packed and expanded, and with that of its twin in f32.
fn assert_text_encoder_is_its_twin(file: &Path, twin: &Path) {
    let draw = |path: &Path, packing| {
        let text_encoder = Some(path.to_owned());
        Files { text_encoder, packing, ..Files::default() }.draw()
    };
    let expected = draw(twin, Packing::Expanded);
    for packing in [Packing::Packed, Packing::Expanded] {
        assert!(draw(file, packing) == expected, "{packing:?}");
    }
}

#[test]
fn a_text_encoder_in_gguf_is_its_twin_and_brings_its_tokenizer() {
    let folder = TempDir::new().expect("a folder");
    let file = folder.path().join("qwen3.gguf");
    let path = folder.path().join("twin.safetensors");
    let packed = with_tokenizer(encoder());
    packed.write(&file);
    twin(&file, &packed.names(), &path);
    assert_text_encoder_is_its_twin(&file, &path);

    // Alone: sizes and tokenizer are those of the file.
    let options = EncoderOptions {
        model_path: folder.path().to_owned(),
        text_encoder_path: Some(file.clone()),
        device: DeviceChoice::Cpu,
        packing: Packing::Packed,
        ..Default::default()
    };
    let (mut encoder, tokenizer) = llm_dit_qwen3::load(&options).expect("a text encoder");
    let whole = ChatTokenizer::from_folder(&repository("models/demo/tokenizer")).expect("a folder");
    let goldens = fs::read_to_string(llm_dit_tests::goldens::Goldens::folder().join("chat.json"));
    let goldens: serde_json::Value =
        serde_json::from_str(&goldens.expect("the golden")).expect("JSON");
    let prompts = goldens["cases"].as_array().expect("cases").iter();
    let mut count = 0;
    for prompt in prompts.filter_map(|case| case["prompt"].as_str()) {
        for raw in [false, true] {
            let chat = Chat { raw_special_tokens: raw, ..Chat::user(prompt) };
            let ids =
                |tokenizer: &ChatTokenizer| tokenizer.tokenize(&chat, 4096).expect("fits").ids;
            assert_eq!(ids(&tokenizer), ids(&whole), "{prompt:?}");
        }
        count += 1;
    }
    assert!(count > 20, "{count} prompts");
    let ids = tokenizer.tokenize(&Chat::user("a red apple"), 512).expect("fits").ids;
    let job = EncodeJob { token_ids: ids, hidden_layer: 2, dtype: encoder.info().dtype };
    let alone = encoder.encode(&job).expect("hidden states");
    let options = EncoderOptions {
        model_path: repository("models/demo"),
        text_encoder_path: Some(path),
        ..options
    };
    let mut twin = llm_dit_qwen3::load_encoder(&options).expect("a text encoder");
    assert_eq!(alone.bytes(), twin.encode(&job).expect("hidden states").bytes());
}

/// As ComfyUI's template downloads it: several formats in one file, the embedding table among them.
#[test]
fn a_text_encoder_in_comfyuis_layouts_is_its_twin() {
    let folder = TempDir::new().expect("a folder");
    let file = folder.path().join("qwen3.safetensors");
    let path = folder.path().join("twin.safetensors");
    let plain = State::read(&demo_file("text_encoder"));
    let formats = [Format::E4m3, Format::Nvfp4, Format::Int8 { group: 64 }];
    let mixed = plain.0.iter().enumerate().map(|(i, (name, stored))| {
        let one = State([(name.clone(), stored.clone())].into());
        comfy(&one, Layout::Mixed, formats[i % formats.len()])
    });
    let mixed = mixed.fold(State::default(), State::and);
    assert!(mixed.0.contains_key("model.embed_tokens.comfy_quant"));
    mixed.write(&file);
    twin(&file, &plain.0.into_keys().collect::<Vec<_>>(), &path);
    assert_text_encoder_is_its_twin(&file, &path);
}

#[test]
fn a_text_encoder_that_is_another_is_refused_in_words() {
    let folder = TempDir::new().expect("a folder");
    let file = folder.path().join("qwen3.gguf");
    let refusal = |file: &Path| {
        let options = EncoderOptions {
            model_path: folder.path().to_owned(),
            text_encoder_path: Some(file.to_owned()),
            device: DeviceChoice::Cpu,
            ..Default::default()
        };
        llm_dit_qwen3::load_encoder(&options).err().expect("is refused").to_string()
    };
    let set = |key: &str, value: Pair| {
        let mut changed = encoder();
        changed.pairs.retain(|(known, _)| known != key);
        changed.pairs.push((key.to_owned(), value));
        changed.write(&file);
        refusal(&file)
    };
    let said = set("general.architecture", Pair::Text("qwen3vl".into()));
    assert!(said.contains("qwen3vl") && said.contains("Qwen3-4B"), "{said}");
    let said = set("qwen3.attention.key_length", Pair::Whole(80));
    assert!(said.contains("80") && said.contains("64"), "{said}");
    let said = set("qwen3.rope.scaling.type", Pair::Text("yarn".into()));
    assert!(said.contains("yarn"), "{said}");
    let said = set("qwen3.rope.freq_base", Pair::Float(-1.0));
    assert!(said.contains("freq_base is -1"), "{said}");
    let said = set("split.count", Pair::Whole(2));
    assert!(said.contains("llama-gguf-split"), "{said}");

    // The tokenizer of another model.
    let mut other = with_tokenizer(encoder());
    for (key, value) in &mut other.pairs {
        if key == "tokenizer.ggml.pre" {
            *value = Pair::Text("llama-bpe".into());
        }
    }
    other.write(&file);
    let options = EncoderOptions {
        model_path: folder.path().to_owned(),
        text_encoder_path: Some(file.clone()),
        device: DeviceChoice::Cpu,
        ..Default::default()
    };
    let said = llm_dit_qwen3::load(&options).err().expect("is refused").to_string();
    assert!(said.contains("llama-bpe") && said.contains("qwen2"), "{said}");
}
