//! From a model folder to an engine.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use candle_core::Device;
use llm_dit_device::has_bf16;
use llm_dit_engine::{
    image::{About, ImageGenerator, LatentMap, LoraChoice},
    plan::{Part, Plan},
};
use llm_dit_params::ModelDefaults;
use llm_dit_proto::DType;
use llm_dit_weights::{
    Checkpoint, DeviceBudget, DeviceChoice, Kind, Library, LoadError, Packing, PartFiles,
    Precision, Residency, Rule, Schema, Weights, check_index, compute_dtype, model_label,
    part_config, read_config, read_object, synthetic,
};
use serde_json::Value;

use crate::{
    dit::{self, Dit},
    latent_map::{is_flux, latent_map},
    lora, model_index,
    parts::{Autoencoder, Load, Transformer},
    pipeline::ZImage,
    scheduler_config,
    vae::{self, Tiling},
};

/// Stem of the weight files that diffusers writes.
const STEM: &str = "diffusion_pytorch_model";

/// In a model folder.
const ABOUT: &str = "about.json";

const ABOUT_SCHEMA: Schema = Schema {
    keys: &[("description", Rule::Read(Kind::Text)), ("examples", Rule::Read(Kind::TextList))],
    library: Library::None,
};

/// What to load and where.
#[derive(Clone, Debug, Default)]
pub struct DiffusionOptions {
    /// A diffusers folder with `transformer/`, `vae/` and `scheduler/`, or as much of it as the
    /// paths below leave.
    pub model_path: PathBuf,
    /// Instead of its `transformer/`: such a folder, or a file (safetensors or GGUF).
    pub dit_path: Option<PathBuf>,
    /// Instead of its `vae/`, likewise.
    pub vae_path: Option<PathBuf>,
    pub device: DeviceChoice,
    /// Where the VAE computes; `None`: where the DiT does.
    pub vae_device: Option<DeviceChoice>,
    /// What the DiT computes in; `None`: f32 on the CPU, bf16 on an accelerator, or f16 on a GPU that
    /// has no bf16. With f16, weights and products are f16, all else f32.
    pub dtype: Option<DType>,
    /// What the VAE computes in; `None`: bf16 on CUDA, f32 elsewhere. f16 makes black pictures with
    /// some autoencoders: its range is too small for their activations. bf16 has the range of f32.
    pub vae_dtype: Option<DType>,
    /// When the VAE works in tiles.
    pub vae_tiling: Tiling,
    /// Whether all parts stay on their device, or only the one that computes.
    pub residency: Residency,
    /// When the parts that stay are loaded.
    pub load: Load,
    /// Whether weights stay as they are stored.
    pub packing: Packing,
    /// What it may take of the transformer's device; `None`: what is there.
    pub budget: Option<DeviceBudget>,
    /// What requests call the model; `None`: as its folder or file is called.
    pub name: Option<String>,
    /// LoRAs to fuse.
    pub loras: Vec<LoraChoice>,
}

/// Loads everything but the text encoder.
pub fn load(options: &DiffusionOptions) -> Result<Box<dyn ImageGenerator>, LoadError> {
    Ok(Box::new(load_model(options)?))
}

/// [`load`] for each of these models, by name and folder, or for that of the options alone. Dtypes,
/// devices and residency are the same for all; LoRAs and single files belong to the first one. With
/// `lazy`, nothing is loaded before its first use.
///
/// # Errors
/// When one of them cannot be loaded.
pub fn load_all(
    options: &DiffusionOptions,
    models: Vec<(String, PathBuf)>,
    lazy: bool,
) -> Result<Vec<Box<dyn ImageGenerator>>, LoadError> {
    let load_when = if lazy { Load::OnUse } else { Load::AtStart };
    let options = DiffusionOptions { load: load_when, ..options.clone() };
    options.each(models).iter().map(load).collect()
}

/// [`load`], for a caller that uses the parts alone.
pub fn load_model(options: &DiffusionOptions) -> Result<ZImage, LoadError> {
    let residency = options.residency;
    check_index(&options.model_path, &model_index::SCHEMA, |key| match key {
        "transformer" => options.dit_path.is_none(),
        "vae" => options.vae_path.is_none(),
        _ => true,
    })?;
    let (device, vae_device) = options.open_devices()?;
    let (config, weights) = open_dit(
        &options.dit_files(),
        &options.model_path,
        &device,
        options.dtype,
        options.packing,
    )?;
    // First the LoRAs, so that one that does not fit is known before gigabytes are read.
    let (loras, overlay) = lora::read_loras(&options.loras, &config)?;
    let (vae_config, vae_weights) = open_vae(
        &options.vae_files(),
        &options.model_path,
        &vae_device,
        options.vae_compute_dtype(&vae_device),
    )?;
    vae::check_encoder(&vae_config, &vae_weights)?;
    let (made, read) = (config.in_channels, vae_config.latent_channels);
    if made != read {
        let cause = format!("transformer/ works on {made} latent channels, vae/ on {read}");
        return Err(LoadError::Invalid { path: options.model_path.clone(), cause });
    }
    let preview = preview(options, &vae_config)?;
    let label = || model_label(options.dit_path.as_deref().unwrap_or(&options.model_path));
    let label = options.name.clone().unwrap_or_else(label);
    let (defaults, about) = (defaults(options)?, about(options)?);
    let weights = weights.with_overlay(Arc::new(overlay));
    let dit = Transformer::new(residency, options.load, config, weights, device)?;
    let autoencoder =
        Autoencoder::new(residency, options.load, vae_config, vae_weights, options.vae_tiling)?;
    let budget = options.budget;
    Ok(ZImage { label, about, dit, autoencoder, defaults, preview, loras, residency, budget })
}

/// A model of this shape with random weights, to measure with. Paths of `options` are not read.
pub fn synthetic_model(
    label: &str,
    config: dit::Config,
    vae_config: vae::Config,
    options: &DiffusionOptions,
) -> Result<ZImage, LoadError> {
    let residency = options.residency;
    let (device, vae_device) = options.open_devices()?;
    let path = Path::new(label);
    let precision = Precision::of_transformer(compute_dtype(options.dtype, &device));
    let weights = synthetic(path, &device, precision);
    let vae_weights = synthetic(path, &vae_device, options.vae_compute_dtype(&vae_device));
    Ok(ZImage {
        label: label.to_owned(),
        about: About::default(),
        dit: Transformer::new(residency, options.load, config, weights, device)?,
        autoencoder: Autoencoder::new(
            residency,
            options.load,
            vae_config,
            vae_weights,
            options.vae_tiling,
        )?,
        residency,
        budget: options.budget,
        defaults: ModelDefaults::z_image_turbo(),
        preview: None,
        loras: Vec::new(),
    })
}

/// A `transformer/` folder or a file.
pub fn load_dit(path: &Path, device: &Device, dtype: Option<DType>) -> Result<Dit, LoadError> {
    let part = PartFiles::find(path, "", STEM, Some(path));
    let (config, weights) = open_dit(&part, path, device, dtype, Packing::Auto)?;
    Dit::load(config, &weights)
}

/// The decoding half of a `vae/` folder or file, in f32.
pub fn load_vae_decoder(path: &Path, device: &Device) -> Result<vae::Decoder, LoadError> {
    let part = PartFiles::find(path, "", STEM, Some(path));
    let (config, weights) = open_vae(&part, path, device, candle_core::DType::F32)?;
    vae::Decoder::load(config, &weights)
}

/// The encoding half, likewise.
pub fn load_vae_encoder(path: &Path, device: &Device) -> Result<vae::Encoder, LoadError> {
    let part = PartFiles::find(path, "", STEM, Some(path));
    let (config, weights) = open_vae(&part, path, device, candle_core::DType::F32)?;
    vae::Encoder::load(config, &weights)
}

pub(crate) fn open_dit(
    part: &PartFiles,
    model: &Path,
    device: &Device,
    dtype: Option<DType>,
    packing: Packing,
) -> Result<(dit::Config, Weights), LoadError> {
    let precision = Precision::of_transformer(compute_dtype(dtype, device));
    let weights = Checkpoint::open(part, dit::names::naming, device, precision, packing)?;
    Ok((part_config(part, &model.join("transformer"), &weights)?, weights))
}

pub(crate) fn open_vae(
    part: &PartFiles,
    model: &Path,
    device: &Device,
    dtype: candle_core::DType,
) -> Result<(vae::Config, Weights), LoadError> {
    // Convolutions are computed with as they are loaded.
    let weights = Checkpoint::open(part, vae::names::naming, device, dtype, Packing::Expanded)?;
    Ok((part_config(part, &model.join("vae"), &weights)?, weights))
}

/// The map beside the VAE's configuration. A VAE's file has none beside it; the model folder's is for
/// a VAE of the model's own kind.
fn preview(
    options: &DiffusionOptions,
    config: &vae::Config,
) -> Result<Option<LatentMap>, LoadError> {
    match &options.vae_path {
        Some(folder) if folder.is_dir() => latent_map(folder, config),
        Some(_) if is_flux(config) => Ok(Some(LatentMap::flux())),
        _ => latent_map(&options.model_path.join("vae"), config),
    }
}

/// What the folder says of its model: of its transformer, so nothing of another one.
fn about(options: &DiffusionOptions) -> Result<About, LoadError> {
    let path = options.model_path.join(ABOUT);
    if options.dit_path.is_some() || !path.is_file() {
        return Ok(About::default());
    }
    let about: About = read_config(&path, &ABOUT_SCHEMA)?;
    about.check().map_err(|cause| LoadError::Invalid { path, cause })?;
    Ok(about)
}

impl DiffusionOptions {
    /// Those of each of these models, or these alone.
    pub(crate) fn each(&self, models: Vec<(String, PathBuf)>) -> Vec<Self> {
        if models.is_empty() {
            return vec![self.clone()];
        }
        let one = |(at, (name, model_path)): (usize, (String, PathBuf))| {
            let mut options = Self { name: Some(name), model_path, ..self.clone() };
            if at > 0 {
                options.loras.clear();
                (options.dit_path, options.vae_path) = (None, None);
            }
            options
        };
        models.into_iter().enumerate().map(one).collect()
    }

    /// The same with parts kept as a plan says it, if there is one.
    #[must_use]
    pub fn planned(self, plan: Option<&Plan>) -> Self {
        let Some((plan, part)) = plan.and_then(|plan| Some((plan, plan.part(Part::Transformer)?)))
        else {
            return self;
        };
        let budget = Some(DeviceBudget::of(plan));
        Self { residency: part.stay.into(), packing: part.form.into(), budget, ..self }
    }

    /// The transformer's and the VAE's.
    pub(crate) fn open_devices(&self) -> Result<(Device, Device), LoadError> {
        let device = self.device.open()?;
        let vae_device = match self.vae_device {
            Some(choice) if choice != self.device => choice.open()?,
            _ => device.clone(),
        };
        Ok((device, vae_device))
    }

    /// What the VAE computes in there.
    pub fn vae_compute_dtype(&self, device: &Device) -> candle_core::DType {
        let bf16 = device.is_cuda() && has_bf16(device);
        let unasked = if bf16 { DType::Bf16 } else { DType::F32 };
        compute_dtype(self.vae_dtype.or(Some(unasked)), device)
    }

    /// The transformer's.
    pub fn dit_files(&self) -> PartFiles {
        PartFiles::find(&self.model_path, "transformer", STEM, self.dit_path.as_deref())
    }

    /// The VAE's.
    pub fn vae_files(&self) -> PartFiles {
        PartFiles::find(&self.model_path, "vae", STEM, self.vae_path.as_deref())
    }
}

/// What this model does when a request says nothing, read from its files without its weights.
pub fn defaults(options: &DiffusionOptions) -> Result<ModelDefaults, LoadError> {
    let turbo = ModelDefaults::z_image_turbo();
    let path = options.model_path.join("scheduler").join("scheduler_config.json");
    // A transformer from a single file may come without one.
    let (scheduler, shift) = if path.is_file() || options.dit_path.is_none() {
        scheduler_config::read(&path)?
    } else {
        (turbo.scheduler, turbo.shift)
    };
    let path = options.model_path.join("vae").join("config.json");
    let sample = if path.is_file() || options.vae_path.is_none() {
        read_object(&path)?.get("sample_size").and_then(first_side)
    } else {
        None
    };
    // Z-Image ships 1024; a model that was trained smaller says so.
    let side = sample.filter(|s| (64..=2048).contains(s) && s.is_multiple_of(16));
    let side = side.unwrap_or(turbo.width);
    Ok(ModelDefaults { width: side, height: side, shift, scheduler, ..turbo })
}

/// The size that a model was trained for: a number, or the first of a list.
fn first_side(sample_size: &Value) -> Option<u32> {
    let side = sample_size.as_array().map_or(Some(sample_size), |sides| sides.first())?;
    u32::try_from(side.as_u64()?).ok()
}
