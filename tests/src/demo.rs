//! The demo model in this process, and how alike two pictures are.

use std::ops::ControlFlow;

use diffusion_service::{
    engine::{GenerateJob, ImageGenerator, LoraChoice, Mask, Picture, Step},
    picture::encode_png,
    source,
};
use encoder_service::engine::{EncodeJob, TextEncoder};
use llm_dit_chat::{Chat, ChatTokenizer};
use llm_dit_params::{GenerateOptions, Limits};
use llm_dit_proto::Tensor;
use llm_dit_qwen3::EncoderOptions;
use llm_dit_recipe::Recipe;
use llm_dit_weights::DeviceChoice;
use llm_dit_z_image::DiffusionOptions;
use serde::Deserialize;

use llm_dit_testkit::repository;

/// A list of pictures that the oracle made, with how it made them.
#[derive(Deserialize)]
pub struct Index {
    pub pictures: Vec<Golden>,
}

/// One of them; everything has diffusers' meaning.
#[derive(Deserialize)]
pub struct Golden {
    pub file: String,
    pub prompt: String,
    pub negative_prompt: Option<String>,
    pub seed: u64,
    pub width: u32,
    pub height: u32,
    pub steps: u32,
    pub guidance_scale: f32,
    #[serde(default)]
    pub cfg_normalization: bool,
    #[serde(default = "never")]
    pub cfg_truncation: f32,
    pub variation_seed: Option<u64>,
    pub variation_strength: Option<f32>,
    /// Absent where it is the model's own.
    pub scheduler: Option<String>,
    /// Absent where it is the scheduler's own grid.
    pub sigmas: Option<Vec<f64>>,
    /// A picture that this one is drawn from, of the same size, and how much of it is redrawn.
    pub source: Option<String>,
    pub strength: Option<f64>,
    /// Which part of it.
    pub mask: Option<String>,
    /// Of the LoRA that ships beside the demo model; absent where the model is left as it is.
    #[serde(default)]
    pub loras: Vec<GoldenLora>,
}

/// That LoRA, as one of a picture's.
#[derive(Clone, Deserialize)]
pub struct GoldenLora {
    pub scale: f32,
    /// `both` or `positive`.
    pub pass: String,
}

fn never() -> f32 {
    1.0
}

/// The LoRA that ships beside the demo model.
pub fn blueprint() -> LoraChoice {
    LoraChoice {
        name: "blueprint".into(),
        path: repository("models/loras/blueprint.safetensors"),
        scale: 1.0,
        trigger_words: String::new(),
        blocks: Default::default(),
        pass: Default::default(),
    }
}

/// All of the demo model, on the CPU.
pub struct Demo {
    tokenizer: ChatTokenizer,
    encoder: Box<dyn TextEncoder>,
    generator: Box<dyn ImageGenerator>,
}

impl Golden {
    /// # Panics
    /// With a scheduler that is not one of ours.
    pub fn options(&self) -> GenerateOptions {
        GenerateOptions {
            width: Some(self.width),
            height: Some(self.height),
            steps: Some(self.steps),
            seed: Some(self.seed),
            guidance_scale: Some(self.guidance_scale),
            // diffusers' `True` is the factor 1.
            cfg_normalization: self.cfg_normalization.then_some(1.0),
            variation_seed: self.variation_seed,
            variation_strength: self.variation_strength,
            cfg_truncation: Some(self.cfg_truncation),
            shift: None,
            sigmas: self.sigmas.clone(),
            strength: self.strength,
            scheduler: self.scheduler.as_deref().map(|id| id.parse().expect("one of ours")),
            ..Default::default()
        }
    }
}

impl Demo {
    /// # Panics
    /// Without the demo model there is nothing to test.
    pub fn load() -> Self {
        let model_path = repository("models/demo");
        let device = DeviceChoice::Cpu;
        let encoder =
            EncoderOptions { model_path: model_path.clone(), device, ..Default::default() };
        Self::open(&encoder, &DiffusionOptions { model_path, device, ..Default::default() })
    }

    /// It, or another model, in another way.
    ///
    /// # Panics
    /// When it cannot be loaded.
    pub fn open(encoder: &EncoderOptions, diffusion: &DiffusionOptions) -> Self {
        let (encoder, tokenizer) = llm_dit_qwen3::load(encoder).expect("a text encoder");
        let generator = llm_dit_z_image::load(diffusion).expect("a transformer and a VAE");
        Self { tokenizer, encoder, generator }
    }

    /// Fuses these, in place of any others.
    ///
    /// # Panics
    /// When one is not the demo model's.
    pub fn set_loras(&mut self, loras: &[LoraChoice]) {
        self.generator.set_loras(loras).expect("LoRAs of the model");
    }

    /// The embeddings of a bare prompt.
    pub fn encode(&mut self, text: &str) -> Tensor {
        let tokenized = self.tokenizer.tokenize(&Chat::user(text), 512).expect("fits");
        let info = self.encoder.info();
        let hidden_layer = info.resolve_hidden_layer(-2).expect("layers");
        let job = EncodeJob { token_ids: tokenized.ids, hidden_layer, dtype: info.dtype };
        self.encoder.encode(&job).expect("hidden states")
    }

    /// Pixels, through the file, as users get them.
    pub fn draw(&mut self, prompt: &str, negative: &str, options: GenerateOptions) -> Vec<u8> {
        self.draw_from(prompt, negative, options, None, None)
    }

    /// Likewise, from a picture or a part of it.
    pub fn draw_from(
        &mut self,
        prompt: &str,
        negative: &str,
        options: GenerateOptions,
        image: Option<Picture>,
        mask: Option<Mask>,
    ) -> Vec<u8> {
        let params =
            options.resolve(&self.generator.info().defaults, &Limits::default()).expect("valid");
        let job = GenerateJob {
            embeddings: self.encode(prompt),
            negative_embeddings: params.uses_guidance().then(|| self.encode(negative)),
            params,
            loras: Vec::new(),
            latents: None,
            image,
            mask,
            return_latents: false,
            preview: None,
        };
        let job = self.generator.info().check(job).expect("valid");
        let mut sink = |_: Step| ControlFlow::Continue(());
        let picture = self.generator.generate(&job, &mut sink).expect("a picture").picture;
        let png = encode_png(&picture, &Recipe::default()).expect("a PNG");
        image::load_from_memory(&png).expect("a readable PNG").into_rgb8().into_raw()
    }

    /// Draws every picture of an index in `tests/goldens` again, and returns how near each
    /// came to the oracle's, in dB.
    pub fn compare(&mut self, index: &str) -> Vec<f64> {
        let index = crate::goldens::Goldens::folder().join(index);
        let folder = index.parent().expect("a file is in a folder").to_owned();
        let text = std::fs::read_to_string(&index).expect("goldens");
        let index: Index = serde_json::from_str(&text).expect("a valid index");
        let compare = |golden: &Golden| {
            let expected = image::open(folder.join(&golden.file)).expect("a golden").into_rgb8();
            assert_eq!(expected.dimensions(), (golden.width, golden.height));
            let negative = golden.negative_prompt.as_deref().unwrap_or_default();
            let image = golden.source.as_ref().map(|name| {
                let file = std::fs::read(folder.join(name)).expect("a golden source");
                source::read(&file, golden.width, golden.height).expect("a picture")
            });
            if !golden.loras.is_empty() {
                let lora = |GoldenLora { scale, pass }: &GoldenLora| LoraChoice {
                    scale: *scale,
                    pass: pass.parse().expect("a pass"),
                    ..blueprint()
                };
                self.set_loras(&golden.loras.iter().map(lora).collect::<Vec<_>>());
            }
            let ours = self.draw_from(&golden.prompt, negative, golden.options(), image, None);
            let decibels = psnr(&ours, expected.as_raw());
            println!("{:36} {decibels:6.2} dB", golden.file);
            decibels
        };
        index.pictures.iter().map(compare).collect()
    }
}

/// In dB, over all channels of 8-bit pixels.
pub fn psnr(a: &[u8], b: &[u8]) -> f64 {
    assert_eq!(a.len(), b.len(), "sizes differ");
    let squares: f64 = a.iter().zip(b).map(|(a, b)| (f64::from(*a) - f64::from(*b)).powi(2)).sum();
    10.0 * (255.0 * 255.0 / (squares / a.len() as f64)).log10()
}
