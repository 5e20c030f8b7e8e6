//! The demo model in every form that weights come in: the pictures are the same to the last bit.
//! And what is wrong with a file is said, with the name of the tensor.

use std::{fs, path::PathBuf};

use diffusion_service::engine::Picture;
use llm_dit_params::GenerateOptions;
use llm_dit_qwen3::EncoderOptions;
use llm_dit_testkit::repository;
use llm_dit_tests::{
    demo::Demo,
    forms::{NativeNames, State, Stored, demo_file},
};
use llm_dit_weights::{DeviceChoice, Residency};
use llm_dit_z_image::DiffusionOptions;
use safetensors::Dtype;
use tempfile::TempDir;

/// Where the parts come from.
#[derive(Clone, Default)]
struct Paths {
    dit: Option<PathBuf>,
    text_encoder: Option<PathBuf>,
    vae: Option<PathBuf>,
    model: Option<PathBuf>,
    offload: bool,
}

impl Paths {
    fn open(&self) -> Demo {
        let model_path = self.model.clone().unwrap_or_else(|| repository("models/demo"));
        let device = DeviceChoice::Cpu;
        let residency = if self.offload { Residency::InUse } else { Residency::Always };
        Demo::open(
            &EncoderOptions {
                model_path: model_path.clone(),
                text_encoder_path: self.text_encoder.clone(),
                device,
                residency,
                ..Default::default()
            },
            &DiffusionOptions {
                model_path,
                dit_path: self.dit.clone(),
                vae_path: self.vae.clone(),
                device,
                residency,
                ..Default::default()
            },
        )
    }

    /// Once with guidance, and once from a picture, so that every tensor of every part is read.
    fn draw(&self) -> Vec<u8> {
        let mut demo = self.open();
        let options = GenerateOptions {
            width: Some(128),
            height: Some(96),
            steps: Some(2),
            seed: Some(5),
            guidance_scale: Some(1.0),
            ..Default::default()
        };
        let mut pixels = demo.draw("a red apple", "blurry", options.clone());
        let rgb = (0..128 * 96 * 3).map(|i| (i % 251) as u8).collect();
        let picture = Picture { width: 128, height: 96, rgb };
        pixels.extend(demo.draw_from("a rocket", "", options, Some(picture), None));
        pixels
    }
}

#[test]
fn every_form_draws_the_same() {
    let folder = TempDir::new().expect("a folder");
    let at = |name: &str| folder.path().join(name);
    let names = NativeNames::open();
    let [dit, vae, text_encoder] =
        ["transformer", "vae", "text_encoder"].map(|part| State::read(&demo_file(part)));
    let (native_dit, native_vae) = (dit.native(&names.dit), convolved(vae.native(&names.vae)));
    let expected = Paths::default().draw();
    assert_ne!(expected[..128 * 96 * 3], expected[128 * 96 * 3..]);

    let write = |name: &str, state: &State| {
        state.write(&at(name));
        Some(at(name))
    };
    let mut left_behind = native_dit.prefixed("model.diffusion_model.");
    left_behind.0.insert("model.diffusion_model.norm_final.weight".into(), vector(192));
    let everything = left_behind
        .clone()
        .and(native_vae.prefixed("vae."))
        .and(text_encoder.prefixed("text_encoders.qwen3_4b.transformer."));
    let everything = write("everything.safetensors", &everything);
    // Without the `model.` that transformers writes, and with a head.
    let bare = text_encoder.0.iter().map(|(name, stored)| {
        (name.strip_prefix("model.").unwrap_or(name).to_owned(), stored.clone())
    });
    let mut bare = State(bare.collect());
    bare.0.insert("lm_head.weight".into(), vector(192));

    // As fine-tunes are merged: one model keeps its names, the others get a prefix.
    let merged = native_dit
        .clone()
        .and(vae.prefixed("first_stage_model."))
        .and(text_encoder.prefixed("text_encoders.qwen_3_4b.transformer."))
        .and(mark("text_encoders.qwen_3_4b.logit_scale", &[]));
    let merged = write("m1.safetensors", &merged);
    let merged_vae =
        native_vae.clone().and(dit.prefixed("diffusion_model.")).and(mark("te.logit_scale", &[]));
    let merged_encoder =
        text_encoder.clone().and(dit.prefixed("transformer.")).and(vae.prefixed("vae."));
    let mut flat_pads = native_dit.clone();
    for (name, stored) in &mut flat_pads.0 {
        if name.ends_with("pad_token") {
            stored.shape = vec![192];
        }
    }
    let marked = native_dit.clone().and(mark("v_pred", &[0])).and(mark("scaled_fp8", &[0]));

    let forms = [
        (
            "native transformer",
            Paths { dit: write("d1.safetensors", &native_dit), ..Default::default() },
        ),
        (
            "ComfyUI's transformer",
            Paths { dit: write("d2.safetensors", &left_behind), ..Default::default() },
        ),
        (
            "diffusers' transformer in one file",
            Paths {
                dit: write("d3.safetensors", &dit.prefixed("transformer.")),
                ..Default::default()
            },
        ),
        (
            "a merged file whose transformer has no prefix",
            Paths { dit: merged.clone(), ..Default::default() },
        ),
        (
            "a merged file whose VAE has no prefix",
            Paths { vae: write("m2.safetensors", &merged_vae), ..Default::default() },
        ),
        (
            "a merged file whose text encoder has no prefix",
            Paths { text_encoder: write("m3.safetensors", &merged_encoder), ..Default::default() },
        ),
        (
            "the text encoder of a merged file, under another name",
            Paths { text_encoder: merged, ..Default::default() },
        ),
        (
            "pad tokens of one axis",
            Paths { dit: write("p1.safetensors", &flat_pads), ..Default::default() },
        ),
        (
            "a tensor without values",
            Paths { dit: write("z1.safetensors", &marked), ..Default::default() },
        ),
        ("native VAE", Paths { vae: write("v1.safetensors", &native_vae), ..Default::default() }),
        ("diffusers' VAE in one file", Paths { vae: Some(demo_file("vae")), ..Default::default() }),
        (
            "text encoder in one file",
            Paths { text_encoder: Some(demo_file("text_encoder")), ..Default::default() },
        ),
        (
            "bare text encoder",
            Paths { text_encoder: write("t1.safetensors", &bare), ..Default::default() },
        ),
        (
            "one file for everything",
            Paths {
                dit: everything.clone(),
                vae: everything.clone(),
                text_encoder: everything,
                ..Default::default()
            },
        ),
        (
            "another model's folder",
            Paths { dit: Some(repository("models/demo")), ..Default::default() },
        ),
        (
            "a part's folder",
            Paths { vae: Some(repository("models/demo/vae")), ..Default::default() },
        ),
        ("shards", Paths { model: Some(sharded(&at("sharded"))), ..Default::default() }),
        ("one part at a time", Paths { offload: true, ..Default::default() }),
    ];
    for (form, paths) in forms {
        assert!(paths.draw() == expected, "{form} draws something else");
    }
}

/// A model folder needs no more than what the single files lack.
#[test]
fn a_tokenizer_and_single_files_are_a_model() {
    let folder = TempDir::new().expect("a folder");
    let demo = repository("models/demo");
    let tokenizer = folder.path().join("tokenizer");
    fs::create_dir(&tokenizer).expect("a folder");
    for file in fs::read_dir(demo.join("tokenizer")).expect("the tokenizer") {
        let file = file.expect("a file");
        fs::copy(file.path(), tokenizer.join(file.file_name())).expect("copied");
    }
    let paths = Paths {
        model: Some(folder.path().to_owned()),
        dit: Some(demo_file("transformer")),
        // As a file it would come without its own scaling factor, which no shape tells.
        vae: Some(demo.join("vae")),
        text_encoder: Some(demo_file("text_encoder")),
        offload: false,
    };
    let mut options = GenerateOptions {
        width: Some(128),
        height: Some(96),
        steps: Some(2),
        seed: Some(5),
        ..Default::default()
    };
    let expected = Paths::default().open().draw("a red apple", "", options.clone());
    assert!(paths.open().draw("a red apple", "", options.clone()) == expected);
    // What the folder does not say is as in Z-Image Turbo.
    (options.width, options.height) = (None, Some(64));
    assert_eq!(paths.open().draw("a red apple", "", options.clone()).len(), 1024 * 64 * 3);
}

/// Refuses a transformer that was changed, and returns what it said.
fn refusal(change: impl FnOnce(&mut State)) -> String {
    let folder = TempDir::new().expect("a folder");
    let path = folder.path().join("dit.safetensors");
    let mut dit = State::read(&demo_file("transformer"));
    change(&mut dit);
    dit.write(&path);
    refusal_of(path)
}

fn refusal_of(path: PathBuf) -> String {
    let options = DiffusionOptions {
        model_path: repository("models/demo"),
        dit_path: Some(path),
        device: DeviceChoice::Cpu,
        ..Default::default()
    };
    let error = llm_dit_z_image::load(&options).err().expect("is refused");
    error.to_string()
}

#[test]
fn what_is_wrong_with_a_tensor_is_said() {
    let name = "layers.3.feed_forward.w2.weight";
    let said = refusal(|dit| drop(dit.0.remove(name)));
    assert!(said.contains(name) && said.contains("[192, 512]"), "{said}");

    let said = refusal(|dit| dit.0.get_mut(name).expect("is there").shape = vec![512, 192]);
    assert!(said.contains(name) && said.contains("[512, 192]"), "{said}");
    assert!(said.contains("[192, 512] is expected"), "{said}");

    let said =
        refusal(|dit| drop(dit.0.insert("layers.3.attention.to_z.weight".into(), vector(3))));
    assert!(said.contains("'layers.3.attention.to_z.weight'"), "{said}");

    let said = refusal(|dit| drop(dit.0.insert("x_embedder.bias".into(), vector(192))));
    assert!(said.contains("'all_x_embedder.2-1.bias' and 'x_embedder.bias'"), "{said}");

    let said = refusal(|dit| {
        *dit = dit.native(&NativeNames::open().dit);
        dit.0.insert("layers.3.attention.qkv.weight".into(), vector(577));
    });
    assert!(said.contains("'layers.3.attention.qkv.weight'"), "{said}");
    assert!(said.contains("[577], but [576, 192] is expected"), "{said}");

    let said = refusal(|dit| {
        *dit = dit.native(&NativeNames::open().dit).prefixed("model.diffusion_model.");
        dit.0.insert("model.diffusion_model.layers.3.attention.qkv.bias".into(), vector(576));
    });
    assert!(said.contains("'model.diffusion_model.layers.3.attention.qkv.bias'; "), "{said}");

    let said = refusal(|dit| {
        let stored = dit.0.get_mut("layers.3.attention.to_q.weight").expect("is there");
        (stored.dtype, stored.data) = (Dtype::I8, vec![1; 192 * 192]);
    });
    assert!(said.contains("'layers.3.attention.to_q.weight'") && said.contains("I8"), "{said}");
}

/// The half of the VAE that is loaded when the first picture comes is looked for at once.
#[test]
fn half_a_vae_is_refused_by_the_tensor_that_is_missing() {
    let folder = TempDir::new().expect("a folder");
    let path = folder.path().join("decoder.safetensors");
    let whole = State::read(&demo_file("vae"));
    for missing in ["encoder.", "encoder.mid_block.attentions.0.to_k.bias", "decoder.conv_in."] {
        let mut vae = whole.clone();
        vae.0.retain(|name, _| !name.starts_with(missing));
        vae.write(&path);
        let options = DiffusionOptions {
            model_path: repository("models/demo"),
            vae_path: Some(path.clone()),
            device: DeviceChoice::Cpu,
            ..Default::default()
        };
        let said = llm_dit_z_image::load(&options).err().expect(missing).to_string();
        assert!(said.contains(&format!("'{missing}")) && said.contains("decoder."), "{said}");
    }
}

/// Weights of other programs' tools, told by what lies beside them.
#[test]
fn quantized_weights_are_named_as_such() {
    for (name, sort) in [
        ("layers.0.attention.qkv.weight_scale", "with scales"),
        ("layers.0.attention.qkv.weight_scale_2", "nvfp4"),
        ("layers.0.attention.to_qkv.wscales", "SVDQuant"),
        ("layers.0.feed_forward.w1.weight.absmax", "bitsandbytes"),
        ("layers.0.feed_forward.w1.weight.quant_state.bitsandbytes__nf4", "bitsandbytes"),
    ] {
        for prefix in ["", "model.diffusion_model."] {
            let name = format!("{prefix}{name}");
            let said = refusal(|dit| {
                *dit = dit.native(&NativeNames::open().dit).prefixed(prefix);
                dit.0.insert(name.clone(), vector(1));
            });
            assert!(said.contains(&format!("'{name}'")), "{said}");
            assert!(said.contains("quantized weights") && said.contains(sort), "{said}");
            assert!(said.contains("dit.safetensors") && said.contains("bf16"), "{said}");
        }
    }
    // Layouts that are read, beside weights that do not fit them.
    for (name, words) in
        [("scale_weight", "fp8 with scales, but its weight is BF16"), ("comfy_quant", "no JSON")]
    {
        let said = refusal(|dit| {
            *dit = dit.native(&NativeNames::open().dit);
            dit.0.insert(format!("layers.0.attention.qkv.{name}"), vector(1));
        });
        assert!(said.contains("'layers.0.attention.qkv'") && said.contains(words), "{said}");
    }
    for (format, words) in [
        ("awq_w4a16", "awq_w4a16, which is not read"),
        ("nvfp4", "nvfp4, but its weight is BF16"),
        ("int8_tensorwise", "int8_tensorwise, but its weight is BF16"),
    ] {
        let said = refusal(|dit| {
            *dit = dit.native(&NativeNames::open().dit);
            let about = format!("{{\"format\": \"{format}\"}}").into_bytes();
            let about = Stored { dtype: Dtype::U8, shape: vec![about.len()], data: about };
            dit.0.insert("layers.0.attention.qkv.comfy_quant".into(), about);
        });
        assert!(said.contains("'layers.0.attention.qkv'") && said.contains(words), "{said}");
    }
    // Those of a model that is not asked for are its own matter.
    let folder = TempDir::new().expect("a folder");
    let path = folder.path().join("dit.safetensors");
    let mut dit = State::read(&demo_file("transformer"));
    dit.0
        .insert("text_encoders.qwen3_4b.model.layers.0.mlp.up_proj.scale_weight".into(), vector(1));
    dit.write(&path);
    let options = DiffusionOptions {
        model_path: repository("models/demo"),
        dit_path: Some(path.clone()),
        device: DeviceChoice::Cpu,
        ..Default::default()
    };
    llm_dit_z_image::load(&options).expect("loads");
    let options = EncoderOptions {
        model_path: repository("models/demo"),
        text_encoder_path: Some(path),
        device: DeviceChoice::Cpu,
        ..Default::default()
    };
    let said = llm_dit_qwen3::load(&options).err().expect("is refused").to_string();
    assert!(said.contains("fp8 with scales") && said.contains("up_proj.scale_weight"), "{said}");
}

/// 8 bits without scales are values like others.
#[test]
fn small_floats_are_what_their_bits_say() {
    let folder = TempDir::new().expect("a folder");
    let at = |name: &str| folder.path().join(name);
    let dit = State::read(&demo_file("transformer"));
    let (mut small, mut wide) = (dit.clone(), dit);
    for (name, stored) in &mut small.0 {
        if stored.shape.len() != 2 || name.ends_with("pad_token") {
            continue;
        }
        // The upper half of an f16 is an f8 of this kind.
        let halves: Vec<half::f16> = match stored.dtype {
            Dtype::BF16 => stored
                .data
                .chunks_exact(2)
                .map(|b| half::f16::from_f32(half::bf16::from_le_bytes([b[0], b[1]]).to_f32()))
                .collect(),
            other => panic!("the demo model is bf16, not {other:?}"),
        };
        let bytes: Vec<u8> = halves.iter().map(|half| half.to_le_bytes()[1]).collect();
        let same = |byte: &u8| half::f16::from_bits(u16::from(*byte) << 8).to_f32();
        let values = bytes.iter().flat_map(|byte| same(byte).to_le_bytes()).collect();
        let wide = wide.0.get_mut(name).expect("the same names");
        (wide.dtype, wide.data) = (Dtype::F32, values);
        (stored.dtype, stored.data) = (Dtype::F8_E5M2, bytes);
    }
    small.write(&at("small.safetensors"));
    wide.write(&at("wide.safetensors"));
    let draw = |name: &str| Paths { dit: Some(at(name)), ..Default::default() }.draw();
    assert!(draw("small.safetensors") == draw("wide.safetensors"));
}

#[test]
fn what_is_no_checkpoint_is_said() {
    let folder = TempDir::new().expect("a folder");
    let at = |name: &str, bytes: &[u8]| {
        let path = folder.path().join(name);
        fs::write(&path, bytes).expect("written");
        path
    };
    let whole = fs::read(demo_file("transformer")).expect("the demo model");
    for (path, said) in [
        (folder.path().join("absent.safetensors"), "there is no file"),
        (at("a.gguf", b"GGUF"), "download it again"),
        (at("gguf.safetensors", b"GGUF\x03\0\0\0 and so on and so on"), "tensors, and"),
        (at("torch.safetensors", b"PK\x03\x04 and so on, for long"), "pickled"),
        (at("lfs.safetensors", b"version https://git-lfs.github.com/spec/v1"), "git lfs pull"),
        (at("page.safetensors", b"<!DOCTYPE html><html></html>"), "it is a web page"),
        (at("a.pth", b"PK"), "can run code"),
        (at("empty.safetensors", b""), "not a whole safetensors file"),
        (at("text.safetensors", b"no weights, but some text"), "not a whole safetensors file"),
        (at("half.safetensors", &whole[..whole.len() / 2]), "not a whole safetensors file"),
        (demo_file("vae"), "no tensor 'all_x_embedder.2-1.weight' of a Z-Image transformer"),
        (demo_file("text_encoder"), "of a Z-Image transformer"),
        (folder.path().to_owned(), "diffusion_pytorch_model.safetensors"),
    ] {
        let found = refusal_of(path.clone());
        assert!(found.contains(said), "{}: {found}", path.display());
    }
}

fn vector(len: usize) -> Stored {
    Stored { dtype: safetensors::Dtype::BF16, shape: vec![len], data: vec![0; 2 * len] }
}

/// One tensor of this name.
fn mark(name: &str, shape: &[usize]) -> State {
    let data = vec![0; 4 * shape.iter().product::<usize>()];
    let stored = Stored { dtype: Dtype::F32, shape: shape.to_vec(), data };
    State([(name.to_owned(), stored)].into())
}

/// The attention's matrices as the 1x1 convolutions that they are in native files.
fn convolved(mut vae: State) -> State {
    for (name, stored) in &mut vae.0 {
        if name.contains(".attn_1.") && stored.shape.len() == 2 {
            stored.shape.extend([1, 1]);
        }
    }
    vae
}

/// A copy of the demo model with every part in three shards.
fn sharded(folder: &std::path::Path) -> PathBuf {
    let demo = repository("models/demo");
    for part in ["tokenizer", "scheduler", "transformer", "vae", "text_encoder"] {
        fs::create_dir_all(folder.join(part)).expect("a folder");
        for file in fs::read_dir(demo.join(part)).expect("a part") {
            let file = file.expect("a file");
            if file.path().extension().is_none_or(|e| e != "safetensors") {
                fs::copy(file.path(), folder.join(part).join(file.file_name())).expect("copied");
            }
        }
    }
    for part in ["transformer", "vae", "text_encoder"] {
        let file = demo_file(part);
        let stem = file.file_stem().expect("a stem").to_string_lossy().into_owned();
        let mut shards = [State::default(), State::default(), State::default()];
        let mut weight_map = serde_json::Map::new();
        for (index, (name, stored)) in State::read(&file).0.into_iter().enumerate() {
            let shard = index % 3;
            let file = format!("{stem}-{:05}-of-00003.safetensors", shard + 1);
            weight_map.insert(name.clone(), file.into());
            shards[shard].0.insert(name, stored);
        }
        for (index, shard) in shards.iter().enumerate() {
            let name = format!("{stem}-{:05}-of-00003.safetensors", index + 1);
            shard.write(&folder.join(part).join(name));
        }
        let index = serde_json::json!({ "metadata": {}, "weight_map": weight_map });
        let path = folder.join(part).join(format!("{stem}.safetensors.index.json"));
        fs::write(path, index.to_string()).expect("written");
    }
    fs::copy(demo.join("model_index.json"), folder.join("model_index.json")).expect("copied");
    folder.to_owned()
}
