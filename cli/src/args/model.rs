//! Flags about the model, for commands that compute in this process.

use std::path::{Path, PathBuf};

use clap::Args;
use diffusion_service::LoraArgs;
use llm_dit_chat::ChatTokenizer;
use llm_dit_comfyui::{Found, Part, find, loras};
use llm_dit_engine::{image::LoraChoice, plan::Course, text::TextEncoder};
use llm_dit_hub::CacheArgs;
use llm_dit_params::ModelDefaults;
use llm_dit_proto::DType;
use llm_dit_qwen3::EncoderOptions;
use llm_dit_weights::{DeviceChoice, args::OffloadArgs, encoder_folder, folder_of};
use llm_dit_z_image::{DiffusionOptions, vae::Tiling};

use crate::error::CliError;

/// Which model to load, on which devices and in which dtypes.
#[derive(Clone, Debug, Args)]
pub struct ModelArgs {
    /// Model folder in the diffusers layout, with model_index.json, or ORG/NAME of a model from
    /// `llm-dit pull`. Not needed if the three paths below provide all weights [default: the demo
    /// model]
    #[arg(short, long, value_name = "DIR")]
    pub model_path: Option<PathBuf>,
    /// Transformer weights to use instead of those in --model-path: a diffusers folder, a GGUF
    /// file, a safetensors file of ComfyUI or of the model's authors, or ORG/NAME/FILE of a
    /// downloaded one
    #[arg(long, value_name = "FILE")]
    pub dit_path: Option<PathBuf>,
    /// Text encoder weights, likewise. The tokenizer is that of --model-path, else the built-in one
    /// of Qwen3
    #[arg(long, value_name = "FILE")]
    pub text_encoder_path: Option<PathBuf>,
    /// VAE weights, likewise
    #[arg(long, value_name = "FILE")]
    pub vae_path: Option<PathBuf>,
    /// ComfyUI folder, or its models folder: provides the transformer, the text encoder and the VAE
    /// that no path names, and LoRAs. A path may then be a file's name in its folders
    #[arg(long, value_name = "DIR")]
    pub comfyui: Option<PathBuf>,
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
    /// How the VAE decodes and encodes large images: auto (in bands of rows if the memory does not
    /// suffice for the whole; the same image), on (in the overlapping tiles of diffusers, if larger
    /// than one) or off (whole)
    #[arg(long, value_name = "WHEN", default_value_t = Tiling::Auto)]
    pub vae_tiling: Tiling,
    #[command(flatten)]
    pub offload: OffloadArgs,
    #[command(flatten)]
    pub cache: CacheArgs,
}

impl ModelArgs {
    /// The same flags with the paths of downloaded models and of ComfyUI's files. `parts` are those
    /// that are needed; `note` is told which files of ComfyUI were chosen.
    pub fn located(&self, parts: &[Part], note: impl Fn(&str)) -> Result<Self, CliError> {
        let mut args = self.clone();
        if let Some(folder) = &self.comfyui {
            let given = Found {
                dit: args.dit_path.take(),
                text_encoder: args.text_encoder_path.take(),
                vae: args.vae_path.take(),
                loras: None,
            };
            let found = find(folder, parts, &given).map_err(CliError::usage)?;
            note(&found.told(&given));
            (args.dit_path, args.vae_path) = (found.dit, found.vae);
            args.text_encoder_path = found.text_encoder;
        }
        for path in [
            &mut args.model_path,
            &mut args.dit_path,
            &mut args.text_encoder_path,
            &mut args.vae_path,
        ] {
            let found = path.as_deref().map(|path| self.cache.locate(path)).transpose();
            *path = found.map_err(CliError::usage)?;
        }
        Ok(args)
    }

    /// The same LoRAs with the files of downloaded ones.
    pub fn located_loras(&self, lora: LoraArgs) -> Result<LoraArgs, CliError> {
        lora.located(&self.cache).map_err(CliError::usage)
    }

    /// ComfyUI's folder of LoRAs.
    pub fn loras(&self) -> Option<PathBuf> {
        loras(self.comfyui.as_deref()?)
    }

    /// Checks that a text encoder that is named without a model has its transformer and its VAE.
    pub fn complete(&self) -> Result<(), CliError> {
        let parts = [&self.dit_path, &self.vae_path];
        if self.model_path.is_some()
            || self.text_encoder_path.is_none()
            || parts.iter().all(|path| path.is_some())
        {
            return Ok(());
        }
        Err(CliError::Usage(
            "--text-encoder-path needs the rest of its model: --dit-path and --vae-path, or --model-path"
                .to_owned(),
        ))
    }

    /// The model's folder. Where files are named and no folder, what belongs to the transformer's
    /// file is looked for beside it.
    pub fn folder(&self) -> Result<PathBuf, CliError> {
        let is_named =
            self.text_encoder_path.is_some() || self.vae_path.is_some() || self.comfyui.is_some();
        if let (None, Some(dit), true) = (&self.model_path, &self.dit_path, is_named) {
            return Ok(folder_of(dit));
        }
        encoder_folder(self.model_path.as_deref(), self.text_encoder_path.as_deref())
            .map_err(CliError::usage)
    }

    /// What the flags say of the dtype of embeddings, wherever they are computed.
    pub fn encoder_dtype(&self) -> Option<DType> {
        self.text_encoder_dtype.or(self.dtype)
    }

    /// Options of the model folder's text encoder.
    pub fn encoder(&self, folder: &Path) -> EncoderOptions {
        let model_path = match (&self.model_path, &self.text_encoder_path) {
            (None, Some(file)) => folder_of(file),
            _ => folder.to_owned(),
        };
        EncoderOptions {
            model_path,
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
        let args = self.located(&Part::ALL, |_| {}).ok()?;
        let folder = args.folder().ok()?;
        let defaults = llm_dit_z_image::defaults(&args.diffusion(&folder, Vec::new())).ok()?;
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
    let options = args.encoder(folder);
    let parts = llm_dit_qwen3::measure(&options).map_err(CliError::failed)?;
    let plan = args.offload.plan(&parts, Course::Command, 1, None).map_err(CliError::usage)?;
    llm_dit_qwen3::load(&options.planned(plan.as_ref())).map_err(CliError::failed)
}
