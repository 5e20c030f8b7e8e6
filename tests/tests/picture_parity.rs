//! The demo model's pictures against diffusers' `ZImagePipeline` in float32: same prompt, same
//! seed, 45 dB or more. Pictures and their parameters are in `tests/goldens/pictures`.

use std::{ops::ControlFlow, path::Path};

use diffusion_service::{
    DiffusionOptions,
    engine::{GenerateJob, ImageGenerator, Step},
    picture::encode_png,
};
use encoder_service::{
    EncoderOptions,
    engine::{EncodeJob, TextEncoder},
};
use llm_dit_chat::{Chat, ChatTokenizer};
use llm_dit_params::{GenerateOptions, Limits};
use llm_dit_proto::Tensor;
use llm_dit_tests::goldens::Goldens;
use llm_dit_weights::DeviceChoice;
use serde::Deserialize;

/// In dB, over all channels of 8-bit pixels.
const BOUND: f64 = 45.0;

#[derive(Deserialize)]
struct Index {
    pictures: Vec<Golden>,
}

#[derive(Deserialize)]
struct Golden {
    file: String,
    prompt: String,
    negative_prompt: Option<String>,
    seed: u64,
    width: u32,
    height: u32,
    steps: u32,
    guidance_scale: f32,
    cfg_normalization: bool,
    cfg_truncation: f32,
}

struct Model {
    tokenizer: ChatTokenizer,
    encoder: Box<dyn TextEncoder>,
    generator: Box<dyn ImageGenerator>,
}

impl Model {
    fn demo() -> Self {
        let model_path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/demo");
        let (device, dtype) = (DeviceChoice::Cpu, None);
        let options = EncoderOptions { model_path: model_path.clone(), device, dtype };
        let (encoder, tokenizer) = encoder_service::load(&options).expect("demo text encoder");
        let options = DiffusionOptions { model_path, device, dtype };
        Self {
            tokenizer,
            encoder,
            generator: diffusion_service::load(&options).expect("demo transformer"),
        }
    }

    fn encode(&mut self, text: &str) -> Tensor {
        let tokenized = self.tokenizer.tokenize(&Chat::user(text), 512).expect("fits");
        let info = self.encoder.info();
        let hidden_layer = info.resolve_hidden_layer(-2).expect("layers");
        let job = EncodeJob { token_ids: tokenized.ids, hidden_layer, dtype: info.dtype };
        self.encoder.encode(&job).expect("hidden states")
    }

    fn generate(&mut self, golden: &Golden) -> Vec<u8> {
        let options = GenerateOptions {
            width: Some(golden.width),
            height: Some(golden.height),
            steps: Some(golden.steps),
            seed: Some(golden.seed),
            guidance_scale: Some(golden.guidance_scale),
            // diffusers' `True` is the factor 1.
            cfg_normalization: golden.cfg_normalization.then_some(1.0),
            cfg_truncation: Some(golden.cfg_truncation),
            shift: None,
        };
        let params =
            options.resolve(&self.generator.info().defaults, &Limits::default()).expect("valid");
        let negative = golden.negative_prompt.as_deref().unwrap_or_default();
        let job = GenerateJob {
            params,
            embeddings: self.encode(&golden.prompt),
            negative_embeddings: params.uses_guidance().then(|| self.encode(negative)),
            latents: None,
            return_latents: false,
        };
        let mut sink = |_: Step| ControlFlow::Continue(());
        let picture = self.generator.generate(&job, &mut sink).expect("a picture").picture;
        // Through the file, as users get it.
        let png = encode_png(&picture).expect("a PNG");
        image::load_from_memory(&png).expect("a readable PNG").into_rgb8().into_raw()
    }
}

fn psnr(a: &[u8], b: &[u8]) -> f64 {
    assert_eq!(a.len(), b.len(), "sizes differ");
    let squares: f64 = a.iter().zip(b).map(|(a, b)| (f64::from(*a) - f64::from(*b)).powi(2)).sum();
    10.0 * (255.0 * 255.0 / (squares / a.len() as f64)).log10()
}

#[test]
fn pictures_are_diffusers_pictures() {
    let folder = Goldens::folder().join("pictures");
    let text = std::fs::read_to_string(folder.join("index.json")).expect("goldens");
    let index: Index = serde_json::from_str(&text).expect("a valid index");
    let mut model = Model::demo();
    let mut worst = f64::INFINITY;
    for golden in &index.pictures {
        let expected =
            image::open(folder.join(&golden.file)).expect("a golden picture").into_rgb8();
        assert_eq!(expected.dimensions(), (golden.width, golden.height));
        let decibels = psnr(&model.generate(golden), expected.as_raw());
        println!("{:36} {decibels:6.2} dB", golden.file);
        worst = worst.min(decibels);
    }
    println!("worst of {}: {worst:.2} dB", index.pictures.len());
    assert!(index.pictures.len() >= 26 && worst >= BOUND, "worst of all is {worst} dB");
}
