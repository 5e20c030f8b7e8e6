//! The measured model: from files, or with random weights.

use std::path::PathBuf;

use candle_core::{DType, Device};
use encoder_service::engine::TextEncoder;
use llm_dit_comfyui::Part;
use llm_dit_device::{Emulation, emulate};
use llm_dit_qwen3::{EncoderOptions, load_encoder, synthetic_encoder};
use llm_dit_weights::{
    DeviceBudget, LoadError, args::MaxVram, compute_dtype, model_folder, model_label, overhead,
};
use llm_dit_z_image::{DiffusionOptions, ZImage, load_model, synthetic_model};

use super::{BenchArgs, shape::Shape};
use crate::error::CliError;

/// Where the weights come from.
#[derive(Clone, Debug)]
pub enum Source {
    Shape(Shape),
    /// A model's folder.
    Files(PathBuf),
}

/// A model that is there for as long as its rows are measured.
#[derive(Default)]
pub struct Model {
    pub encoder: Option<Box<dyn TextEncoder>>,
    pub diffusion: Option<ZImage>,
}

/// Everything that is known before weights are loaded.
pub struct Plan {
    pub source: Source,
    pub encoder: EncoderOptions,
    pub diffusion: DiffusionOptions,
    /// The transformer's.
    pub device: Device,
    pub dtype: DType,
    pub vae_dtype: DType,
}

impl Plan {
    /// Chooses devices, dtypes and the source of the weights. Nothing is loaded.
    ///
    /// # Errors
    ///
    /// [`CliError`] if a device cannot be opened or the model is not found.
    pub fn new(args: &BenchArgs) -> Result<Self, CliError> {
        let model = args.model.located(&Part::ALL, |chosen| eprintln!("note: {chosen}"))?;
        emulate(Emulation { capability: args.capability, cudnn: !args.without_cudnn });
        let device = model.dit_device.unwrap_or(model.device).open().map_err(CliError::failed)?;
        if !device.is_cuda() && (args.capability.is_some() || args.without_cudnn) {
            return Err(CliError::usage(
                "--capability and --without-cudnn are about NVIDIA GPUs, and the device is none",
            ));
        }
        model.complete()?;
        let from_files = [&model.model_path, &model.dit_path, &model.text_encoder_path];
        let from_files = from_files.into_iter().chain([&model.vae_path]).any(Option::is_some);
        let source = match args.shape {
            Some(shape) => Source::Shape(shape),
            None if from_files => Source::Files(model.folder()?),
            None if device.is_cpu() => Source::Shape(Shape::Demo),
            None => Source::Shape(Shape::Turbo),
        };
        let folder = match &source {
            Source::Shape(_) => PathBuf::new(),
            Source::Files(folder) => folder.clone(),
        };
        let mut diffusion = model.diffusion(&folder, Vec::new());
        if let MaxVram::Size(limit) = model.offload.max_vram {
            let overhead = overhead(&device);
            diffusion.budget = Some(DeviceBudget { limit, others: overhead, overhead });
        }
        Ok(Self {
            dtype: compute_dtype(diffusion.dtype, &device),
            vae_dtype: diffusion.vae_compute_dtype(&device),
            encoder: model.encoder(&folder),
            diffusion,
            device,
            source,
        })
    }

    /// The model's name in the table.
    pub fn label(&self) -> String {
        match &self.source {
            Source::Shape(shape) => shape.label().to_owned(),
            Source::Files(folder) => {
                model_label(self.diffusion.dit_path.as_deref().unwrap_or(folder))
            }
        }
    }

    /// Sides of pictures that are measured when none are named.
    pub fn sizes(&self) -> &'static [u32] {
        match &self.source {
            Source::Shape(shape) => shape.sizes(),
            Source::Files(_) => Shape::Turbo.sizes(),
        }
    }

    /// The tokenizer's folder. With random weights it is the demo model's, whose ids are in every
    /// vocabulary.
    ///
    /// # Errors
    ///
    /// [`LoadError`] if the demo model is not found.
    pub fn tokenizer(&self) -> Result<PathBuf, LoadError> {
        let folder = match &self.source {
            Source::Shape(_) => model_folder(None)?,
            Source::Files(folder) => folder.clone(),
        };
        Ok(folder.join("tokenizer"))
    }

    /// Loads the encoder, or makes one with random weights.
    ///
    /// # Errors
    ///
    /// [`LoadError`] if a file is missing or invalid, or if the device does not have the memory.
    pub fn load_encoder(&self) -> Result<Box<dyn TextEncoder>, LoadError> {
        match &self.source {
            Source::Shape(shape) => {
                synthetic_encoder(shape.label(), shape.encoder(), &self.encoder)
            }
            Source::Files(_) => load_encoder(&self.encoder),
        }
    }

    /// Loads transformer and VAE, or makes them with random weights.
    ///
    /// # Errors
    ///
    /// [`LoadError`] if a file is missing or invalid, or if the device does not have the memory.
    pub fn load_diffusion(&self) -> Result<ZImage, LoadError> {
        match &self.source {
            Source::Shape(shape) => {
                synthetic_model(shape.label(), shape.dit(), shape.vae(), &self.diffusion)
            }
            Source::Files(_) => load_model(&self.diffusion),
        }
    }
}
