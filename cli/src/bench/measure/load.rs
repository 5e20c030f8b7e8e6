//! Loading: from files to weights on the device.
//!
//! Random weights have no files, so some are made that hold nothing but zeros and take no room on the
//! disk. Reading those costs page faults, copies and conversions as any file does, but no disk.

use std::{collections::BTreeMap, fs::File, io::Write as _, path::Path};

use candle_core::{DType, Device};
use llm_dit_qwen3 as qwen3;
use llm_dit_weights::{
    Checkpoint, LoadError, Naming, Packing, PartConfig, PartFiles, Precision, Weights,
    compute_dtype, part_config, synthetic,
};
use llm_dit_z_image::{dit, vae};

use super::{Lines, Setup};
use crate::{
    bench::{
        model::{Plan, Source},
        row::Row,
        shape::Shape,
    },
    error::CliError,
};

/// The three parts, and the transformer from f32.
pub const ROWS: usize = 4;

/// A part of the model, and how to load it.
struct Part<C> {
    name: &'static str,
    files: PartFiles,
    /// Where a single file's configuration may be.
    folder: std::path::PathBuf,
    naming: Naming,
    device: Device,
    precision: Precision,
    packing: Packing,
    shape: fn(Shape) -> C,
    load: fn(C, &Weights) -> Result<(), LoadError>,
}

/// Measures how long each part of the model takes to load.
///
/// # Errors
///
/// [`CliError`] if a device cannot be opened or the report cannot be written.
pub fn rows(setup: &Setup, plan: &Plan, lines: &mut Lines<'_>) -> Result<(), CliError> {
    let (encoder, diffusion) = (&plan.encoder, &plan.diffusion);
    let encoder_device = encoder.device.open().map_err(CliError::failed)?;
    let vae_device = diffusion.vae_device.unwrap_or(diffusion.device);
    let encoder = Part {
        name: "load encoder",
        files: encoder.files(),
        folder: encoder.model_path.join("text_encoder"),
        naming: qwen3::names::naming,
        precision: Precision::of_transformer(compute_dtype(encoder.dtype, &encoder_device)),
        device: encoder_device,
        packing: encoder.packing,
        shape: Shape::encoder,
        load: |config, weights| qwen3::Qwen3::load(config, weights).map(drop),
    };
    let vae = Part {
        name: "load vae",
        files: diffusion.vae_files(),
        folder: diffusion.model_path.join("vae"),
        naming: vae::names::naming,
        device: vae_device.open().map_err(CliError::failed)?,
        precision: plan.vae_dtype.into(),
        packing: Packing::Expanded,
        shape: Shape::vae,
        load: |config, weights| vae::Decoder::load(config, weights).map(drop),
    };
    let dit = |name| Part {
        name,
        files: diffusion.dit_files(),
        folder: diffusion.model_path.join("transformer"),
        naming: dit::names::naming,
        device: plan.device.clone(),
        precision: Precision::of_transformer(plan.dtype),
        packing: diffusion.packing,
        shape: Shape::dit,
        load: |config, weights| dit::Dit::load(config, weights).map(drop),
    };
    encoder.row(setup, &plan.source, None, lines)?;
    dit("load dit").row(setup, &plan.source, None, lines)?;
    if matches!(plan.source, Source::Shape(_)) && plan.dtype != DType::F32 {
        // As Z-Image-Turbo's own files are.
        dit("load dit from f32").row(setup, &plan.source, Some(DType::F32), lines)?;
    }
    vae.row(setup, &plan.source, None, lines)
}

impl<C: PartConfig + Clone> Part<C> {
    /// `stored`: what made-up files hold; the type that is computed in when unset.
    fn row(
        &self,
        setup: &Setup,
        source: &Source,
        stored: Option<DType>,
        lines: &mut Lines<'_>,
    ) -> Result<(), CliError> {
        lines.measure(self.name, || {
            let folder = tempfile::tempdir().map_err(failed)?;
            let (files, config) = match source {
                Source::Files(_) => (self.files.clone(), None),
                Source::Shape(shape) => {
                    let config = (self.shape)(*shape);
                    let path = folder.path().join("weights.safetensors");
                    sparse(&path, &self.asked(&config)?, stored.unwrap_or(self.precision.matrices))
                        .map_err(failed)?;
                    (PartFiles::File(path), Some(config))
                }
            };
            let mut bytes = 0;
            let times = setup.slow_clock().time(&[&self.device], || {
                let Self { naming, device, precision, packing, .. } = self;
                let weights = Checkpoint::open(&files, *naming, device, *precision, *packing)?;
                let config = match &config {
                    Some(config) => config.clone(),
                    None => part_config(&files, &self.folder, &weights)?,
                };
                (self.load)(config, &weights)?;
                bytes = weights.stored_bytes();
                Ok::<_, LoadError>(())
            })?;
            let mut row = Row::new(self.name, &times).with_bytes(bytes as f64);
            if matches!(source, Source::Shape(_)) {
                row.note = Some("file of zeros".to_owned());
            }
            Ok::<_, LoadError>(row)
        })
    }

    /// The tensors that the part asks for.
    fn asked(&self, config: &C) -> Result<BTreeMap<String, Vec<usize>>, LoadError> {
        let weights = synthetic(Path::new(self.name), &self.device, self.precision);
        (self.load)(config.clone(), &weights)?;
        Ok(weights.asked())
    }
}

/// A safetensors file of zeros: the header is written, and the rest is a hole.
fn sparse(
    path: &Path,
    tensors: &BTreeMap<String, Vec<usize>>,
    dtype: DType,
) -> std::io::Result<()> {
    let stored = match dtype {
        DType::BF16 => "BF16",
        DType::F16 => "F16",
        _ => "F32",
    };
    let mut header = serde_json::Map::new();
    let mut end = 0;
    for (name, shape) in tensors {
        let begin = end;
        end += shape.iter().product::<usize>() * dtype.size_in_bytes();
        let entry =
            serde_json::json!({ "dtype": stored, "shape": shape, "data_offsets": [begin, end] });
        header.insert(name.clone(), entry);
    }
    let mut header = serde_json::Value::Object(header).to_string();
    // Values begin at a multiple of eight bytes, as the library writes them.
    let padded = header.len().next_multiple_of(8);
    header.extend(std::iter::repeat_n(' ', padded - header.len()));
    let mut file = File::create(path)?;
    file.write_all(&(header.len() as u64).to_le_bytes())?;
    file.write_all(header.as_bytes())?;
    file.set_len((8 + header.len() + end) as u64)
}

fn failed(error: std::io::Error) -> LoadError {
    LoadError::Backend(error.into())
}
