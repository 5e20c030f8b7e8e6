//! The model that the flags name: which files it has, and whether they can be loaded.

use std::{fs, path::Path};

use llm_dit_comfyui::Part;
use llm_dit_engine::plan::Course;
use llm_dit_qwen3::EncoderOptions;
use llm_dit_weights::{PartFiles, Residency, model_label};
use llm_dit_z_image::{DiffusionOptions, parts::Load};
use serde::Serialize;

use crate::{
    args::model::ModelArgs,
    error::CliError,
    vram::{Plans, Wanted},
};

#[derive(Debug, Default, Serialize)]
pub(super) struct ModelReport {
    /// `null` if there is none.
    pub name: Option<String>,
    pub parts: Vec<PartReport>,
}

#[derive(Debug, Serialize)]
pub(super) struct PartReport {
    pub part: &'static str,
    pub path: String,
    /// Size of its weights; `null` if they are missing.
    pub bytes: Option<u64>,
}

/// Reads headers and configurations, as loading would.
/// The lines are those of the memory plan, if there is one.
pub(super) fn model(args: &ModelArgs, problems: &mut Vec<String>) -> (ModelReport, Vec<String>) {
    match report(args, problems) {
        Ok(report) => report,
        Err(error) => {
            problems.push(error.to_string());
            (ModelReport::default(), Vec::new())
        }
    }
}

fn report(
    args: &ModelArgs,
    problems: &mut Vec<String>,
) -> Result<(ModelReport, Vec<String>), CliError> {
    let args = args.located(&Part::ALL, |_| {})?;
    args.complete()?;
    let folder = args.folder()?;
    // With these, nothing is loaded before it is used.
    let encoder = EncoderOptions { residency: Residency::InUse, ..args.encoder(&folder) };
    let diffusion = DiffusionOptions {
        residency: Residency::InUse,
        load: Load::OnUse,
        ..args.diffusion(&folder, Vec::new())
    };
    let named = [
        ("text encoder", encoder.files()),
        ("transformer", diffusion.dit_files()),
        ("VAE", diffusion.vae_files()),
    ];
    let part = |(part, files): (&'static str, PartFiles)| PartReport {
        part,
        path: files.path().display().to_string(),
        bytes: size(files.path()),
    };
    let parts = named.into_iter().map(part).collect();
    if let Err(error) = llm_dit_qwen3::load(&encoder) {
        problems.push(format!("text encoder: {error}"));
    }
    if let Err(error) = llm_dit_z_image::load_model(&diffusion) {
        problems.push(format!("transformer and VAE: {error}"));
    }
    let label = model_label(args.dit_path.as_deref().unwrap_or(&folder));
    let wanted = Wanted {
        encoder: Some(&encoder),
        diffusion: &diffusion,
        models: &[],
        model_memory: None,
        course: Course::Command,
        batch: None,
        images: 1,
        largest: None,
    };
    // Files that cannot be read are reported already.
    let plan = if problems.is_empty() { wanted.plan(&args.offload) } else { Ok(Plans::default()) };
    let plan = plan.map(|plans| plans.lines()).unwrap_or_else(|error| {
        problems.push(error.to_string());
        Vec::new()
    });
    Ok((ModelReport { name: Some(label), parts }, plan))
}

/// Bytes of a file, or of the weights in a folder.
fn size(path: &Path) -> Option<u64> {
    if path.is_file() {
        return path.metadata().ok().map(|file| file.len());
    }
    let entries = fs::read_dir(path).ok()?.flatten();
    let weights = entries.filter(|e| e.path().extension().is_some_and(|end| end == "safetensors"));
    // Through links: folders of the hub's cache are made of them.
    let sizes: Vec<u64> =
        weights.filter_map(|e| Some(fs::metadata(e.path()).ok()?.len())).collect();
    (!sizes.is_empty()).then(|| sizes.iter().sum())
}

impl ModelReport {
    pub fn lines(&self) -> Vec<String> {
        let Some(name) = &self.name else { return vec!["none".to_owned()] };
        let part = |part: &PartReport| {
            let size = part.bytes.map_or_else(
                || "missing".to_owned(),
                |bytes| indicatif::DecimalBytes(bytes).to_string(),
            );
            format!("{:<13} {size:>10}  {}", part.part, part.path)
        };
        std::iter::once(name.clone()).chain(self.parts.iter().map(part)).collect()
    }
}
