//! LoRAs: their files, the weights that they change, and the change itself.

mod fit;

use std::{fs, path::Path, sync::Arc};

use llm_dit_engine::image::{
    ActiveLora, InspectLora, LoraChoice, LoraReport, LoraSummary, SetLorasError,
};
use llm_dit_weights::{
    LoadError, Overlay,
    lora::{LoraError, LoraFile},
};

use crate::{dit, pipeline::ZImage};

/// Reads the LoRA files and computes what they change. Nothing is changed yet.
///
/// # Errors
///
/// [`LoraError`] if a scale is not finite, if a file cannot be read, or if it does not fit the
/// transformer.
pub fn read_loras(
    choices: &[LoraChoice],
    config: &dit::Config,
) -> Result<(Vec<ActiveLora>, Overlay), LoraError> {
    let mut overlay = Overlay::default();
    let active = choices.iter().map(|choice| {
        if !choice.scale.is_finite() {
            let (file, scale) = (choice.name.clone(), choice.scale);
            return Err(LoraError::Scale { file, scale });
        }
        fit::check_blocks(choice, config)?;
        let file = LoraFile::open(&choice.path, &choice.name)?;
        let (fits, unmatched) = fit::fit(&file, config)?;
        if !unmatched.is_empty() {
            let first: Vec<&str> = unmatched.iter().map(String::as_str).take(5).collect();
            tracing::warn!(
                lora = choice.name,
                unmatched = unmatched.len(),
                first = first.join(", "),
                "keys of a LoRA match no module of the transformer and are ignored"
            );
        }
        let changes = fit::overlay(&file, &fits, choice)?;
        let active = ActiveLora {
            choice: choice.clone(),
            rank: file.rank(),
            matrices: fits.count(),
            unmatched,
        };
        tracing::info!(
            lora = choice.name,
            scale = choice.scale,
            rank = active.rank,
            matrices = active.matrices,
            "read a LoRA"
        );
        overlay.extend(changes);
        Ok(active)
    });
    let active = active.collect::<Result<_, _>>()?;
    Ok((active, overlay))
}

/// What a LoRA file's header says, or why the transformer cannot use it. Reads no factors.
fn summary(path: &Path, name: String, config: &dit::Config) -> LoraSummary {
    let fitting = LoraFile::open(path, &name).and_then(|file| {
        fit::fit(&file, config)?;
        Ok(file)
    });
    match fitting {
        Ok(file) => LoraSummary {
            bytes: file.bytes(),
            modules: file.modules().len() + file.differences().len(),
            rank: file.rank(),
            alpha: file.alpha(),
            problem: None,
            name,
        },
        Err(error) => LoraSummary {
            bytes: fs::metadata(path).map_or(0, |about| about.len()),
            modules: 0,
            rank: 0,
            alpha: None,
            problem: Some(error.to_string()),
            name,
        },
    }
}

impl ZImage {
    /// What tells of a LoRA file whether it fits this model.
    pub(crate) fn inspects_loras(&self) -> InspectLora {
        let config = self.dit.config().clone();
        Arc::new(move |path: &Path, name: String| summary(path, name, &config))
    }

    /// Makes these the active LoRAs, all or none.
    pub(crate) fn change_loras(
        &mut self,
        choices: &[LoraChoice],
    ) -> Result<LoraReport, SetLorasError> {
        let (active, overlay) = read_loras(choices, self.dit.config()).map_err(refused)?;
        let before = Arc::clone(self.dit.overlay());
        let (old, new) = (before.tensors(), overlay.tensors());
        let (changed, restored) = (new.len(), old.difference(&new).count());
        self.dit.set_overlay(Arc::new(overlay)).map_err(failed)?;
        self.loras.clone_from(&active);
        Ok(LoraReport { active, changed, restored })
    }
}

/// What is wrong with a file.
fn refused(error: LoraError) -> SetLorasError {
    let message = error.to_string();
    match error {
        LoraError::NotFound { .. } => SetLorasError::NotFound(message),
        LoraError::Pickle { .. }
        | LoraError::Invalid { .. }
        | LoraError::Kind { .. }
        | LoraError::Incomplete { .. }
        | LoraError::NotFinite { .. }
        | LoraError::Shape { .. }
        | LoraError::Difference { .. }
        | LoraError::Twice { .. }
        | LoraError::NoMatch { .. }
        | LoraError::Block { .. }
        | LoraError::Scale { .. } => SetLorasError::Bad(message),
        LoraError::Io { .. } | LoraError::Backend(_) => SetLorasError::Backend(message),
    }
}

/// Why the weights could not be changed.
fn failed(error: LoadError) -> SetLorasError {
    match error {
        LoadError::Lora(error) => refused(error),
        LoadError::Overflow { .. } => SetLorasError::NotFinite(error.to_string()),
        other => SetLorasError::Backend(other.to_string()),
    }
}
