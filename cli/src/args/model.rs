//! Flags about the model, for commands that compute in this process.

use std::path::{Path, PathBuf};

use clap::Args;
use llm_dit_chat::ChatTokenizer;
use llm_dit_engine::{image::LoraChoice, text::TextEncoder};
use llm_dit_params::ModelDefaults;
use llm_dit_proto::DType;
use llm_dit_qwen3::EncoderOptions;
use llm_dit_weights::{DeviceChoice, args::OffloadArgs, encoder_folder};
use llm_dit_z_image::{DiffusionOptions, vae::Tiling};

use crate::error::CliError;

/// Which model to load, on which devices and in which dtypes.
#[derive(Clone, Debug, Args)]
pub struct ModelArgs {
    /// Model folder in the diffusers layout, with model_index.json. If the three paths below
    /// provide all weights, a folder with tokenizer/ is enough [default: the demo model]
    #[arg(short, long, value_name = "DIR")]
    pub model_path: Option<PathBuf>,
    /// Transformer weights to use instead of those in --model-path: a diffusers folder, a GGUF
    /// file, or a safetensors file of ComfyUI or of the model's authors
    #[arg(long, value_name = "FILE")]
    pub dit_path: Option<PathBuf>,
    /// Text encoder weights, likewise. --model-path still provides the tokenizer
    #[arg(long, value_name = "FILE")]
    pub text_encoder_path: Option<PathBuf>,
    /// VAE weights, likewise
    #[arg(long, value_name = "FILE")]
    pub vae_path: Option<PathBuf>,
    /// Device: auto, cpu, cuda, cuda:N or metal
    #[arg(long, default_value_t = DeviceChoice::Auto)]
    pub device: DeviceChoice,
    /// Device of the text encoder [default: --device]
    #[arg(long, value_name = "DEVICE")]
    pub text_encoder_device: Option<DeviceChoice>,
    /// Device of the transformer [default: --device]
    #[arg(long, value_name = "DEVICE")]
    pub dit_device: Option<DeviceChoice>,
    /// Device of the VAE [default: the transformer's]
    #[arg(long, value_name = "DEVICE")]
    pub vae_device: Option<DeviceChoice>,
    /// Compute dtype: f32, bf16 or f16 [default: f32 on the CPU, bf16 elsewhere]
    #[arg(long)]
    pub dtype: Option<DType>,
    /// Compute dtype of the text encoder [default: --dtype]
    #[arg(long, value_name = "DTYPE")]
    pub text_encoder_dtype: Option<DType>,
    /// Compute dtype of the VAE [default: bf16 on CUDA, f32 elsewhere]
    #[arg(long, value_name = "DTYPE")]
    pub vae_dtype: Option<DType>,
    /// When to decode and encode images in overlapping VAE tiles: auto (if the VAE would need more
    /// than 6 GiB), on (if the image is larger than one tile) or off
    #[arg(long, value_name = "WHEN", default_value_t = Tiling::Auto)]
    pub vae_tiling: Tiling,
    #[command(flatten)]
    pub offload: OffloadArgs,
}

impl ModelArgs {
    /// The model's folder.
    pub fn folder(&self) -> Result<PathBuf, CliError> {
        encoder_folder(self.model_path.as_deref(), self.text_encoder_path.as_deref())
            .map_err(CliError::usage)
    }

    /// What the flags say of the dtype of embeddings, wherever they are computed.
    pub fn encoder_dtype(&self) -> Option<DType> {
        self.text_encoder_dtype.or(self.dtype)
    }

    /// Options of the model folder's text encoder.
    pub fn encoder(&self, folder: &Path) -> EncoderOptions {
        EncoderOptions {
            model_path: folder.to_owned(),
            text_encoder_path: self.text_encoder_path.clone(),
            device: self.text_encoder_device.unwrap_or(self.device),
            dtype: self.encoder_dtype(),
            residency: self.offload.residency(),
            packing: self.offload.weights,
        }
    }

    /// Options of the transformer and the VAE.
    pub fn diffusion(&self, folder: &Path, loras: Vec<LoraChoice>) -> DiffusionOptions {
        DiffusionOptions {
            model_path: folder.to_owned(),
            dit_path: self.dit_path.clone(),
            vae_path: self.vae_path.clone(),
            device: self.dit_device.unwrap_or(self.device),
            vae_device: self.vae_device,
            dtype: self.dtype,
            vae_dtype: self.vae_dtype,
            vae_tiling: self.vae_tiling,
            residency: self.offload.residency(),
            packing: self.offload.weights,
            loras,
            ..Default::default()
        }
    }

    /// Computes in what an earlier picture was computed in, where that is a type we know.
    pub fn take_dtype(&mut self, earlier: &str) {
        self.dtype = earlier.parse().ok().or(self.dtype);
    }

    /// The model's folder, its label, and what its files say of pictures, where there is a model.
    pub fn known(&self) -> Option<(PathBuf, String, ModelDefaults)> {
        let folder = self.folder().ok()?;
        let defaults = llm_dit_z_image::defaults(&self.diffusion(&folder, Vec::new())).ok()?;
        let label = llm_dit_weights::model_label(&folder);
        Some((folder, label, defaults))
    }
}

/// The folder that `--model-path` names, else the demo model's.
pub fn model_folder(named: Option<&Path>) -> Result<PathBuf, CliError> {
    llm_dit_weights::model_folder(named).map_err(CliError::usage)
}

/// The text encoder that the flags name, and its tokenizer.
pub fn load_encoder(
    args: &ModelArgs,
    folder: &Path,
) -> Result<(Box<dyn TextEncoder>, ChatTokenizer), CliError> {
    llm_dit_qwen3::load(&args.encoder(folder)).map_err(CliError::failed)
}
