//! The interface between the service and an image model, in plain data: no tensor type crosses it.

mod about;
mod batch;
mod checked;
mod engines;
mod latent_map;
mod lora;
mod mask;
mod preview;

use std::{ops::ControlFlow, time::Duration};

use llm_dit_params::{GenerateParams, Limits, ModelDefaults};
use llm_dit_proto::{DType, Tensor};

pub use self::about::About;
pub use self::batch::{BatchKey, BatchLimit, Member};
pub use self::checked::CheckedJob;
pub use self::engines::{Engines, EnginesError};
pub use self::latent_map::LatentMap;
pub use self::lora::{ActiveLora, InspectLora, LoraChoice, LoraReport, LoraSummary, SetLorasError};
pub use self::mask::Mask;
pub use self::preview::{MAX_SIDE, PreviewOptions};
use crate::{DeviceId, MemoryReader};

/// What a loaded model is and accepts.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelInfo {
    /// The checkpoint's label.
    pub model: String,
    pub about: About,
    /// Width of the embeddings it takes.
    pub cap_feat_dim: usize,
    pub latent_channels: usize,
    /// Pixels a latent in each direction.
    pub vae_scale_factor: usize,
    /// Longest caption, in tokens.
    pub max_caption_tokens: usize,
    /// Where the DiT computes.
    pub device: DeviceId,
    /// What the DiT computes in.
    pub dtype: DType,
    pub defaults: ModelDefaults,
    pub limits: Limits,
    /// Makes previews of latents, if there is one for this model.
    pub preview: Option<LatentMap>,
}

/// One picture to make. Engines take it as a [`CheckedJob`].
#[derive(Clone, Debug)]
pub struct GenerateJob {
    pub params: GenerateParams,
    /// What `params.loras` means here. The engine must have them [set](ImageGenerator::set_loras)
    /// when it makes the picture.
    pub loras: Vec<LoraChoice>,
    /// `(tokens, cap_feat_dim)`.
    pub embeddings: Tensor,
    /// Likewise; required exactly when `params.uses_guidance()`.
    pub negative_embeddings: Option<Tensor>,
    /// Initial noise `(latent_channels, height / 8, width / 8)` instead of the seed's.
    pub latents: Option<Tensor>,
    /// A picture to draw from, already of the size of the picture to make.
    pub image: Option<Picture>,
    /// Which part of `image` is redrawn, likewise; all of it without one.
    pub mask: Option<Mask>,
    /// Also return the final latents.
    pub return_latents: bool,
    /// When to hand out a [`X0Prediction`].
    pub preview: Option<PreviewOptions>,
}

/// A forward pass that was just done. There is one a step of the scheduler, or two with Heun's.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Step {
    /// From 1.
    pub index: u32,
    pub total: u32,
    pub duration: Duration,
}

/// The clean latents that the model aims at, as far as a forward pass tells.
#[derive(Clone, Debug, PartialEq)]
pub struct X0Prediction {
    pub step: Step,
    /// `(latent_channels, height / 8, width / 8)`.
    pub clean: Vec<f32>,
}

/// Hears of progress and may stop the work.
pub trait StepSink {
    /// Called after every forward pass; with `index` 0 before the first, and wherever else nothing is
    /// to be told but whether to go on. `Break` ends the job with [`GenerateError::Cancelled`]
    /// before more is done for it.
    fn step(&mut self, step: Step) -> ControlFlow<()>;

    /// Called after [`StepSink::step`] where the job asks for it. It must hand any work to another
    /// thread: the next step waits.
    fn guess(&mut self, _guess: X0Prediction) {}
}

impl<F: FnMut(Step) -> ControlFlow<()>> StepSink for F {
    fn step(&mut self, step: Step) -> ControlFlow<()> {
        self(step)
    }
}

/// 8-bit RGB, rows from the top, no padding.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Picture {
    pub width: u32,
    pub height: u32,
    pub rgb: Vec<u8>,
}

/// What came out.
#[derive(Clone, Debug)]
pub struct Generated {
    pub picture: Picture,
    /// f32 `(latent_channels, height / 8, width / 8)`, when the job asked for them.
    pub latents: Option<Tensor>,
    /// From noise to latents; of all that were made together, since they take every step together.
    pub denoise: Duration,
    /// Latents to pixels, of this picture alone.
    pub decode: Duration,
}

/// Why nothing came out.
#[derive(Debug, thiserror::Error)]
pub enum GenerateError {
    /// The job cannot be done by this model.
    #[error("{0}")]
    BadJob(String),
    /// The job's LoRAs cannot be used.
    #[error(transparent)]
    Loras(#[from] SetLorasError),
    /// The result holds NaN or infinite values. The numbers of the job may be the cause, or the engine
    /// is broken.
    #[error(
        "the image contains NaN or infinite values: with a smaller LoRA scale or guidance_scale, or a wider dtype (bf16 or f32), it may not"
    )]
    NotFinite,
    #[error("the generation was cancelled")]
    Cancelled,
    #[error(
        "the device is out of memory for this image; request a smaller one, or run with --cpu-offload, a smaller --max-vram or a smaller --max-batch"
    )]
    OutOfMemory,
    /// Known before it was begun, of the host or of a planned device. Sizes in pixels and bytes.
    #[error(
        "a {width}x{height} image needs {} MiB of memory, but {} MiB are available; request a smaller size, or run with --cpu-offload or a larger --max-vram",
        .needed >> 20,
        .available >> 20
    )]
    TooLarge { width: u32, height: u32, needed: u64, available: u64 },
    /// The backend failed; the cause is for the log, not for the caller.
    #[error("the model failed: {0}")]
    Backend(String),
}

/// Owns the weights. Lives on one thread.
pub trait ImageGenerator: Send {
    /// The loaded model, with its defaults and limits.
    fn info(&self) -> ModelInfo;

    /// Makes the pictures of jobs that [fit](GenerateJob::fits) each other, each as it would be
    /// made alone. A member leaves the batch when its sink says so, and the others go on. Each is
    /// [answered](Member::finish) as soon as its picture is there; one that is dropped without an
    /// answer has failed.
    fn generate_batch(&mut self, batch: Vec<Member<'_>>);

    /// A batch of one.
    ///
    /// # Errors
    ///
    /// [`GenerateError`] if the job does not fit the model, if the device fails, or if `sink` stops
    /// it.
    fn generate(
        &mut self,
        job: &CheckedJob,
        sink: &mut dyn StepSink,
    ) -> Result<Generated, GenerateError> {
        let mut result = None;
        let sink = batch::Borrowed(sink);
        self.generate_batch(vec![Member::new(job, sink, |made| result = Some(made))]);
        result.unwrap_or_else(|| Err(GenerateError::Backend("no result came".to_owned())))
    }

    /// Checks that the device works, with a minimum of work.
    ///
    /// # Errors
    ///
    /// [`GenerateError`] if it does not.
    fn probe(&mut self) -> Result<(), GenerateError> {
        Ok(())
    }

    /// What reads the memory of the device it computes on, if that can be read.
    fn memory(&self) -> Option<MemoryReader> {
        None
    }

    /// Bytes that its weights take when all that are ever loaded at once are loaded.
    fn weight_bytes(&self) -> u64 {
        0
    }

    /// Bytes of the weights that are loaded now.
    fn loaded_bytes(&self) -> u64 {
        0
    }

    /// Gives the memory of its weights back. They are loaded again when they are needed.
    fn unload(&mut self) {}

    /// What tells of a LoRA file whether this model can use it, from any thread.
    fn lora_inspector(&self) -> InspectLora;

    /// The LoRAs that are fused into the weights now.
    fn loras(&self) -> Vec<ActiveLora>;
    /// Fuses these into the weights, in place of the current ones.
    ///
    /// # Errors
    ///
    /// [`SetLorasError`] if a file cannot be used or the weights cannot be loaded. The current
    /// LoRAs then stay.
    fn set_loras(&mut self, choices: &[LoraChoice]) -> Result<LoraReport, SetLorasError>;
}

impl ModelInfo {
    /// `(channels, height / 8, width / 8)`.
    pub fn latent_shape(&self, params: &GenerateParams) -> [usize; 3] {
        let side = |pixels: u32| pixels as usize / self.vae_scale_factor;
        [self.latent_channels, side(params.height), side(params.width)]
    }

    /// Whether a tensor of this shape can be the initial noise; known before its values are.
    ///
    /// # Errors
    ///
    /// [`GenerateError::BadJob`] if the shape is not the one that the picture's size needs.
    pub fn check_latents_shape(
        &self,
        params: &GenerateParams,
        shape: &[usize],
    ) -> Result<(), GenerateError> {
        let expected = self.latent_shape(params);
        if shape == expected {
            return Ok(());
        }
        let (width, height) = (params.width, params.height);
        Err(GenerateError::BadJob(format!(
            "initial latents have shape {shape:?}; {width}x{height} needs {expected:?}"
        )))
    }

    /// Whether a tensor of this shape can be embeddings; known before its values are.
    ///
    /// # Errors
    ///
    /// [`GenerateError::BadJob`] unless the shape is `(tokens, cap_feat_dim)` with at most
    /// `max_caption_tokens` tokens.
    pub fn check_embeddings_shape(&self, name: &str, shape: &[usize]) -> Result<(), GenerateError> {
        let bad = |why: String| Err(GenerateError::BadJob(format!("{name}: {why}")));
        let [tokens, width] = shape else {
            return bad(format!("shape {shape:?}, but (tokens, {}) is needed", self.cap_feat_dim));
        };
        if *width != self.cap_feat_dim {
            return bad(format!(
                "width {width}, but {} has cap_feat_dim {}; use the text encoder that belongs to it",
                self.model, self.cap_feat_dim
            ));
        }
        if *tokens > self.max_caption_tokens {
            return bad(format!(
                "{tokens} tokens, but {} takes at most {}",
                self.model, self.max_caption_tokens
            ));
        }
        Ok(())
    }
}
