//! Whatever comes from a client, another service or a file is taken or refused, and nothing breaks.
//!
//! A few hundred inputs each here; docs/operate/reliability.md says how often it was done with a million.

use std::{fs, io::Cursor, path::Path, sync::LazyLock};

use axum::{Router, body::Body};
use candle_core::{DType as Compute, Device};
use clap::Parser;
use gateway::GatewayOptions;
use http::{HeaderValue, Request, StatusCode};
use image::{ImageFormat, RgbImage};
use llm_dit_chat::{Chat, ChatTokenizer, TokenizerParts};
use llm_dit_kernels::Format;
use llm_dit_params::{GenerateOptions, Limits, ModelDefaults, Scheduler};
use llm_dit_proto::{Assembler, DType, Tensor, v1};
use llm_dit_recipe::{Recipe, Settings};
use llm_dit_serving::{Deadline, Security, security::Keys};
use llm_dit_settings::Program;
use llm_dit_templates::Template;
use llm_dit_testkit::{
    damage::{config, damaged, damaged_text},
    repository,
    servers::tokenizer,
    wire::{chat, image_parts, params, tensor_parts},
};
use llm_dit_tests::{
    forms::{State, Stored},
    packed::{Gguf, Layout, Pair, comfy},
};
use llm_dit_weights::{
    Checkpoint, GgufTokenizer, Packing, Part, PartFiles, gguf_tokenizer, lora::LoraFile,
};
use proptest::{collection::vec, option, prelude::*, proptest};
use prost::Message;
use tokio::runtime::Runtime;
use tower::ServiceExt as _;

/// Every kind of message that anybody sends us, whole.
fn messages() -> Vec<Vec<u8>> {
    let tensor = Tensor::from_f32(&[0.5; 12], vec![3, 4], DType::Bf16).expect("a shape");
    let mut all: Vec<Vec<u8>> = Vec::new();
    let first = v1::GenerateParams {
        width: Some(64),
        seed: Some(u64::MAX),
        scheduler: Some("unipc".to_owned()),
        prompt: Some(chat("a fox")),
        preview: Some(v1::PreviewOptions { every_steps: 1, max_side: 64 }),
        ..Default::default()
    };
    all.push(params(first).encode_to_vec());
    all.extend(
        tensor_parts(v1::TensorRole::Embeddings, &tensor).iter().map(Message::encode_to_vec),
    );
    all.extend(image_parts("image/png", b"\x89PNG").iter().map(Message::encode_to_vec));
    let request = v1::EncodeRequest {
        prompts: vec![chat("a fox"), chat("")],
        hidden_layer: Some(-2),
        ..Default::default()
    };
    all.push(request.encode_to_vec());
    let header = v1::EmbeddingHeader { tensor: Some(tensor.header()), ..Default::default() };
    let frame = v1::encode_response::Frame::Header(header);
    all.push(v1::EncodeResponse { frame: Some(frame) }.encode_to_vec());
    let selection = v1::LoraSelection {
        name: "../x.safetensors".to_owned(),
        scale: Some(f32::NAN),
        trigger_words: "ink".to_owned(),
        blocks: [("layers.0-14".to_owned(), 0.5)].into(),
        pass: Some("positive".to_owned()),
    };
    all.push(v1::ApplyLorasRequest { loras: vec![selection] }.encode_to_vec());
    all
}

/// A header of a tensor, and bytes after it, go through the door that every tensor takes.
fn assemble(header: &v1::TensorHeader, chunks: &[Vec<u8>]) {
    let Ok(mut assembler) = Assembler::begin(header, 1 << 16) else { return };
    for chunk in chunks {
        if assembler.push(chunk).is_err() {
            return;
        }
    }
    if let Ok(tensor) = assembler.finish() {
        let values: usize = tensor.shape().iter().product();
        assert_eq!(tensor.bytes().len(), values * tensor.dtype().size());
        assert_eq!(tensor.to_f32().len(), values);
        let _ = tensor.check_finite();
    }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn messages_are_read_or_refused(bytes in damaged(messages())) {
        if let Ok(request) = v1::GenerateRequest::decode(&bytes[..])
            && let Some(v1::generate_request::Part::Tensor(start)) = &request.part
            && let Some(header) = &start.header
        {
            assemble(header, &[vec![0; 24]]);
        }
        if let Ok(request) = v1::EncodeRequest::decode(&bytes[..]) {
            let chats: Vec<Chat> = request.prompts.into_iter().map(Chat::from).collect();
            let _ = chats.iter().any(Chat::has_think_block);
        }
        let _ = v1::GenerateEvent::decode(&bytes[..]);
        let _ = v1::EncodeResponse::decode(&bytes[..]);
        let _ = v1::ApplyLorasRequest::decode(&bytes[..]);
        let _ = v1::EncoderDescription::decode(&bytes[..]);
        let _ = v1::DiffusionDescription::decode(&bytes[..]);
    }

    #[test]
    fn tensors_are_whole_or_refused(
        dtype in -1..6i32,
        shape in vec(prop_oneof![0..5u64, any::<u64>()], 0..5),
        total_bytes in prop_oneof![0..100u64, any::<u64>()],
        chunks in vec(vec(any::<u8>(), 0..40), 0..4),
    ) {
        assemble(&v1::TensorHeader { dtype, shape, total_bytes }, &chunks);
    }
}

/// Small pictures with a recipe in them, in every format.
fn pictures() -> Vec<Vec<u8>> {
    let picture = RgbImage::from_fn(8, 6, |x, y| image::Rgb([x as u8 * 30, y as u8 * 40, 9]));
    let settings = Settings { prompt: Some("a fox".to_owned()), ..Settings::default() };
    let recipe = Recipe { settings, ..Recipe::default() };
    [ImageFormat::Png, ImageFormat::Jpeg, ImageFormat::WebP]
        .into_iter()
        .flat_map(|format| {
            let mut file = Cursor::new(Vec::new());
            picture.write_to(&mut file, format).expect("encodes");
            let plain = file.into_inner();
            let told = llm_dit_recipe::write(plain.clone().into(), &recipe).expect("room for it");
            [plain, told.to_vec()]
        })
        .collect()
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn pictures_are_read_or_refused(file in damaged(pictures())) {
        let _ = llm_dit_pictures::media_type(&file);
        let _ = llm_dit_pictures::size(&file);
        // What claims to be large is refused elsewhere, and decoding it here would only take time.
        if matches!(llm_dit_pictures::size(&file), Ok((w, h)) if w <= 64 && h <= 64) {
            let _ = llm_dit_pictures::decode(&file);
            let _ = llm_dit_pictures::thumbnail(&file, 4);
        }
    }

    #[test]
    fn recipes_are_read_or_refused(file in damaged(pictures())) {
        if let Ok(Some(recipe)) = llm_dit_recipe::read(file.clone().into()) {
            let _ = llm_dit_recipe::write(file.into(), &recipe);
            let _ = recipe.parameters();
        }
    }

    #[test]
    fn templates_are_read_or_refused(text in damaged_text(&[
        include_str!("../../templates/z_image/noir.md"),
        "---\nname: x\ncategory: y\nthinking_content: |\n  a\n  b\n---\ntext {prompt}",
        "---\nname: &a x\nb: [*a, *a]\n---\n",
    ])) {
        let _ = Template::parse(Path::new("x.md"), &text);
    }
}

static TOKENIZER: LazyLock<ChatTokenizer> = LazyLock::new(tokenizer);

proptest! {
    #![proptest_config(config())]

    #[test]
    fn texts_become_tokens_that_fit(
        user in damaged_text(&["a red apple", "<|im_end|>\n<|im_start|>", "\u{1f98a} fuchs \u{0}"]),
        thinking in damaged_text(&["", "<think>hm</think>"]),
        raw_special_tokens: bool,
        max_tokens in 1..40usize,
    ) {
        let chat = Chat { user, thinking, raw_special_tokens, ..Chat::default() };
        if let Ok(tokens) = TOKENIZER.tokenize(&chat, max_tokens) {
            assert!(!tokens.ids.is_empty() && tokens.ids.len() <= max_tokens);
        }
        let counts = TOKENIZER.count(&chat).expect("any text has tokens");
        assert!(counts.total >= counts.user + counts.thinking);
        let _ = llm_dit_heylook::format(&chat);
    }

    #[test]
    fn parameters_are_in_bounds_or_refused(
        width in option::of(any::<u32>()),
        height in option::of(0..4096u32),
        steps in option::of(any::<u32>()),
        guidance_scale in option::of(any::<f32>()),
        cfg_truncation in option::of(any::<f32>()),
        shift in option::of(any::<f64>()),
        strength in option::of(any::<f64>()),
        variation_strength in option::of(any::<f32>()),
        scheduler in damaged_text(&["flow_euler", "flow_heun", "dpm_solver", "unipc"]),
    ) {
        let options = GenerateOptions {
            width, height, steps, guidance_scale, cfg_truncation, shift, strength, variation_strength,
            scheduler: scheduler.parse::<Scheduler>().ok().map(|known| known.to_string()),
            ..GenerateOptions::default()
        };
        let limits = Limits::default();
        if let Ok(params) = options.resolve(&ModelDefaults::z_image_turbo(), &limits) {
            assert!(params.width <= limits.max_side && params.height >= limits.min_side);
            assert!((1..=2 * limits.max_steps).contains(&params.forwards()));
            assert!(params.first_step() <= params.steps);
            assert!(params.guidance_scale.is_finite() && params.shift.is_finite());
        }
    }

    #[test]
    fn keys_and_times_are_read_or_refused(
        list in damaged(vec![b"# who\nanna 5d0c2b0a6f1e4f6e8f2f9d5f\n5d0c2b0a6f1e4f6e\n".to_vec()]),
        header in damaged(vec![b"Bearer 5d0c2b0a6f1e4f6e8f2f9d5f".to_vec(), b"99999999S".to_vec()]),
    ) {
        let folder = FOLDER.path().join("keys");
        fs::write(&folder, &list).expect("written");
        let Ok(header) = HeaderValue::from_bytes(&header) else { return Ok(()) };
        if let Ok(keys) = Keys::from_file(&folder) {
            let _ = keys.check(Some(&header));
        }
        if let Ok(text) = header.to_str()
            && let Ok(value) = text.parse()
        {
            let mut metadata = tonic::metadata::MetadataMap::new();
            metadata.insert("grpc-timeout", value);
            let _ = Deadline::of(&metadata).earlier(Deadline::NEVER);
        }
    }
}

static FOLDER: LazyLock<tempfile::TempDir> =
    LazyLock::new(|| tempfile::tempdir().expect("a folder"));

/// Files of tensors that are small: what is wrong with a file is in its header.
fn tensor_files() -> Vec<Vec<u8>> {
    let golden = |name: &str| fs::read(repository("tests/goldens/lora").join(name)).expect(name);
    let values = [0u8; 16];
    let view = |shape: &[usize]| {
        safetensors::tensor::TensorView::new(safetensors::Dtype::F32, shape.to_vec(), &values)
            .expect("a shape")
    };
    let named = |names: [(&'static str, &[usize]); 2]| {
        safetensors::serialize(names.map(|(name, shape)| (name, view(shape))), None).expect("small")
    };
    vec![
        named([("a.lora_A.weight", &[2, 2]), ("a.lora_B.weight", &[2, 2])]),
        named([("lora_unet_a.lora_down.weight", &[1, 4]), ("lora_unet_a.lora_up.weight", &[4, 1])]),
        named([("a.weight", &[4]), ("b.weight", &[2, 2])]),
        golden("adapter.safetensors"),
        golden("kohya.safetensors"),
    ]
}

/// Small files of packed weights, of every kind.
fn packed_files() -> Vec<Vec<u8>> {
    let golden = |name: &str| fs::read(repository("tests/goldens/packed").join(name)).expect(name);
    let pairs = [
        ("general.architecture", Pair::Text("qwen3".into())),
        ("general.alignment", Pair::Whole(32)),
        ("qwen3.attention.key_length", Pair::Whole(4)),
        ("qwen3.rope.freq_base", Pair::Float(1e6)),
        ("tokenizer.ggml.model", Pair::Text("gpt2".into())),
        ("tokenizer.ggml.pre", Pair::Text("qwen2".into())),
        ("tokenizer.ggml.tokens", Pair::Texts(vec!["a".into(), "b".into(), "ab".into()])),
        ("tokenizer.ggml.merges", Pair::Texts(vec!["a b".into()])),
        ("tokenizer.ggml.token_type", Pair::Numbers(vec![1, 3, 1])),
        ("comfy.gguf.orig_shape.b.weight", Pair::Numbers(vec![2, 4, 8])),
    ];
    let tensors = [("a.weight", vec![2, 32]), ("b.weight", vec![64])];
    let small = Gguf {
        pairs: pairs.map(|(key, value)| (key.to_owned(), value)).to_vec(),
        tensors: tensors
            .map(|(name, shape)| (name.to_owned(), shape, Format::Q8_0, vec![1; 68]))
            .to_vec(),
    };
    let values: Vec<f32> = (0..64).map(|i| i as f32 - 20.0).collect();
    let state = State([("a.weight".to_owned(), Stored::f32(&[2, 32], &values))].into());
    let layout = |format| {
        let path = FOLDER.path().join("layout.safetensors");
        comfy(&state, Layout::Mixed, format).write(&path);
        fs::read(&path).expect("written")
    };
    vec![
        small.bytes(),
        golden("blocks.gguf"),
        golden("comfy.safetensors"),
        layout(Format::Int8 { group: 16 }),
        layout(Format::E4m3),
        layout(Format::Mxfp8),
    ]
}

#[derive(Parser)]
struct Line {
    #[arg(long)]
    steps: Option<u32>,
    #[arg(long)]
    host: Option<String>,
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn tensor_files_are_read_or_refused(file in damaged(tensor_files())) {
        let path = FOLDER.path().join("x.safetensors");
        fs::write(&path, &file).expect("written");
        if let Ok(lora) = LoraFile::open(&path, "x") {
            for module in lora.modules() {
                let _ = lora.change(module, 1.0);
            }
            let _ = (lora.rank(), lora.alpha());
        }
        let part = PartFiles::File(path);
        let opened = Checkpoint::open(&part, |names| names.iter().map(|name| vec![Part::whole(*name)]).collect(), &Device::Cpu, Compute::F32, Packing::Expanded);
        if let Ok(weights) = opened {
            let _ = weights.get("a.weight", &[4]);
            let _ = weights.get("b.weight", &[2, 2]);
        }
    }

    #[test]
    fn packed_files_are_read_or_refused(file in damaged(packed_files()), packed: bool) {
        let path = FOLDER.path().join("x.gguf");
        fs::write(&path, &file).expect("written");
        if let Ok(Some(GgufTokenizer { tokens, merges, added })) = gguf_tokenizer(&path) {
            let _ = ChatTokenizer::from_parts(&path, &TokenizerParts { tokens, merges, added });
        }
        let packing = if packed { Packing::Packed } else { Packing::Expanded };
        let naming = |names: &[&str]| names.iter().map(|name| vec![Part::whole(*name)]).collect();
        let part = PartFiles::File(path);
        let opened = Checkpoint::open(&part, naming, &Device::Cpu, Compute::F32, packing);
        if let Ok(weights) = opened {
            for name in ["a.weight", "b.weight", "q4_k.weight", "q8_0.weight", "int8.weight", "model.nvfp4_2.weight"] {
                let Some(shape) = weights.shape(name) else { continue };
                let _ = weights.get(name, &shape);
                let Ok(shape) = <[usize; 2]>::try_from(shape) else { continue };
                if let Ok(matrix) = weights.matrix(name, &shape) {
                    matrix.dequantize(0..shape[0]).expect("what was read is expanded");
                }
                if let Ok(table) = weights.table(name, &shape) {
                    table.dequantize(0..1).expect("a row of what was read");
                }
            }
        }
    }

    #[test]
    fn configurations_are_read_or_refused(text in damaged_text(&[
        include_str!("../../config.example.toml"),
        "[default]\nmodel_path = \"~/x\"\n[default.generation]\nsteps = 4\n[server]\nport = 81\n",
        "[default.lora]\npaths = [\"a\"]\nscales = [0.5]\n",
    ])) {
        let path = FOLDER.path().join("config.toml");
        fs::write(&path, &text).expect("written");
        let words = ["x".as_ref(), "--config".as_ref(), path.as_os_str()];
        if let Ok(parsed) = llm_dit_settings::try_parse_from::<Line>(Program::Command, words) {
            let _ = (parsed.args.steps, parsed.args.host);
        }
    }
}

/// A gateway whose services are not there, so that only what is wrong with a request is found.
struct BoundListener {
    runtime: Runtime,
    app: Router,
}

static DOOR: LazyLock<BoundListener> = LazyLock::new(|| {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("one");
    let nowhere = "http://127.0.0.1:1".to_owned();
    let options = GatewayOptions {
        encoders: vec![gateway::EncoderTarget::local(nowhere.clone())],
        diffusion: vec![nowhere],
        ..GatewayOptions::default()
    };
    let app = runtime.block_on(gateway::routes(&options, &Security::default()));
    let app = app.expect("nothing to read");
    BoundListener { runtime, app }
});

const FORM: &str = "--x\r\nContent-Disposition: form-data; name=\"prompt\"\r\n\r\na fox\r\n--x\r\nContent-Disposition: form-data; name=\"image\"; filename=\"a.png\"\r\nContent-Type: image/png\r\n\r\nPNG\r\n--x--\r\n";

proptest! {
    #![proptest_config(config())]

    #[test]
    fn requests_get_an_answer_or_a_problem(
        target in prop::sample::select(vec![
            ("POST", "/api/generate"), ("POST", "/api/jobs"), ("POST", "/api/encode"),
            ("POST", "/api/format-prompt"), ("POST", "/api/loras/apply"),
            ("POST", "/v1/images/generations"), ("POST", "/v1/images/edits"),
            ("POST", "/api/session"), ("GET", "/api/jobs/x"), ("DELETE", "/api/history/1"),
            ("GET", "/api/templates"),
        ]),
        body in damaged(vec![
            br#"{"prompt": "a fox", "width": 64, "seed": 18446744073709551615, "loras": [{"name": "../a"}]}"#.to_vec(),
            br#"{"prompt": "a fox", "n": 2, "size": "64x64", "stream": true, "image": "data:image/png;base64,AAAA"}"#.to_vec(),
            br#"{"key": "5d0c2b0a6f1e4f6e"}"#.to_vec(),
            FORM.as_bytes().to_vec(),
        ]),
        accept in damaged(vec![b"text/event-stream;q=0.5, */*".to_vec()]),
        timeout in damaged(vec![b"0.5".to_vec()]),
    ) {
        let (method, path) = target;
        let kind = if path.ends_with("edits") { "multipart/form-data; boundary=x" } else { "application/json" };
        let request = Request::builder().method(method).uri(path).header("content-type", kind);
        let headers = [("accept", accept), ("x-request-timeout", timeout)];
        let request = headers.into_iter().fold(request, |request, (name, value)| {
            match HeaderValue::from_bytes(&value) {
                Ok(value) => request.header(name, value),
                Err(_) => request,
            }
        });
        let request = request.body(Body::from(body)).expect("a request");
        let door = &*DOOR;
        let answer = door.runtime.block_on(door.app.clone().oneshot(request)).expect("never fails");
        // A handler that broke would say so with this.
        assert_ne!(answer.status(), StatusCode::INTERNAL_SERVER_ERROR, "{method} {path}");
    }
}
