//! From a model folder to an engine.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use candle_core::Device;
use llm_dit_params::ModelDefaults;
use llm_dit_proto::DType;
use llm_dit_weights::{
    Checkpoint, DeviceChoice, LoadError, Weights, compute_dtype, model_label, read_config,
};
use serde::Deserialize;

use crate::{
    dit::{self, Dit},
    engine::{ImageGenerator, LoraChoice},
    lora,
    pipeline::ZImage,
    source_latents::SourceEncoder,
    vae,
};

/// Stem of the weight files that diffusers writes.
const STEM: &str = "diffusion_pytorch_model";

/// What to load and where.
#[derive(Clone, Debug)]
pub struct DiffusionOptions {
    /// A diffusers folder with `transformer/`, `vae/` and `scheduler/`.
    pub model_path: PathBuf,
    pub device: DeviceChoice,
    /// What the DiT computes in; `None`: f32 on the CPU, bf16 on an accelerator.
    pub dtype: Option<DType>,
    /// LoRAs to fuse.
    pub loras: Vec<LoraChoice>,
}

/// `scheduler/scheduler_config.json`, as far as it matters.
#[derive(Deserialize)]
struct SchedulerConfig {
    shift: f64,
    #[serde(default)]
    use_dynamic_shifting: bool,
}

/// The part of `vae/config.json` that tells the size a model was trained for.
#[derive(Deserialize)]
struct SampleSize {
    sample_size: Option<u32>,
}

/// Loads `transformer/`, `vae/` and `scheduler/`.
pub fn load(options: &DiffusionOptions) -> Result<Box<dyn ImageGenerator>, LoadError> {
    let device = options.device.open()?;
    let (config, weights) =
        open_dit(&options.model_path.join("transformer"), &device, options.dtype)?;
    // First the LoRAs, so that one that does not fit is known before gigabytes are read.
    let (loras, overlay) = lora::read_loras(&options.loras, &config)?;
    let dit = Dit::load(config, &weights.with_overlay(Arc::new(overlay)))?;
    let decoder = load_decoder(&options.model_path.join("vae"), &device)?;
    let (made, read) = (dit.config().in_channels, decoder.config().latent_channels);
    if made != read {
        let cause = format!("transformer/ works on {made} latent channels, vae/ on {read}");
        return Err(LoadError::Invalid { path: options.model_path.clone(), cause });
    }
    let label = model_label(&options.model_path);
    let defaults = defaults(&options.model_path)?;
    let source = SourceEncoder::new(options.model_path.join("vae"), device);
    Ok(Box::new(ZImage { label, dit, decoder, source, defaults, loras }))
}

/// A `transformer/` folder.
pub fn load_dit(folder: &Path, device: &Device, dtype: Option<DType>) -> Result<Dit, LoadError> {
    let (config, weights) = open_dit(folder, device, dtype)?;
    Dit::load(config, &weights)
}

fn open_dit(
    folder: &Path,
    device: &Device,
    dtype: Option<DType>,
) -> Result<(dit::Config, Weights), LoadError> {
    let path = folder.join("config.json");
    let config: dit::Config = read_config(&path)?;
    config.check().map_err(|cause| LoadError::Invalid { path, cause })?;
    Ok((config, Checkpoint::open(folder, STEM, device, compute_dtype(dtype, device))?))
}

/// The decoding half of a `vae/` folder. f32 whatever the DiT computes in: half precision makes
/// black or grey pictures, and the native repository keeps f32 as well.
pub fn load_decoder(folder: &Path, device: &Device) -> Result<vae::Decoder, LoadError> {
    let config = vae_config(folder)?;
    vae::Decoder::load(config, &Checkpoint::open(folder, STEM, device, candle_core::DType::F32)?)
}

/// The encoding half of a `vae/` folder, f32 likewise.
pub fn load_encoder(folder: &Path, device: &Device) -> Result<vae::Encoder, LoadError> {
    let config = vae_config(folder)?;
    vae::Encoder::load(config, &Checkpoint::open(folder, STEM, device, candle_core::DType::F32)?)
}

/// What this model does when a request says nothing, read from its files without its weights.
pub fn defaults(model_path: &Path) -> Result<ModelDefaults, LoadError> {
    let path = model_path.join("scheduler").join("scheduler_config.json");
    let scheduler: SchedulerConfig = read_config(&path)?;
    if scheduler.use_dynamic_shifting {
        let cause = "use_dynamic_shifting is not supported; Z-Image has a fixed shift".into();
        return Err(LoadError::Invalid { path, cause });
    }
    let turbo = ModelDefaults::z_image_turbo();
    let sample: SampleSize = read_config(&model_path.join("vae").join("config.json"))?;
    // Z-Image ships 1024; a model that was trained smaller says so.
    let side = sample.sample_size.filter(|s| (64..=2048).contains(s) && s.is_multiple_of(16));
    let side = side.unwrap_or(turbo.width);
    Ok(ModelDefaults { width: side, height: side, shift: scheduler.shift, ..turbo })
}

fn vae_config(folder: &Path) -> Result<vae::Config, LoadError> {
    let path = folder.join("config.json");
    let config: vae::Config = read_config(&path)?;
    config.check().map_err(|cause| LoadError::Invalid { path, cause })?;
    Ok(config)
}
