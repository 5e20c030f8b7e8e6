//! LoRAs, as callers and the engine describe them.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use llm_dit_params::{LoraBlocks, LoraPass};
use llm_dit_proto::v1;

/// One to use.
#[derive(Clone, Debug, PartialEq)]
pub struct LoraChoice {
    /// What callers and messages call it.
    pub name: String,
    pub path: PathBuf,
    /// Times the file's own scale.
    pub scale: f32,
    /// What goes before a prompt to make it felt; may be empty.
    pub trigger_words: String,
    /// Parts of the model with another scale.
    pub blocks: LoraBlocks,
    /// The passes of guidance that it is in.
    pub pass: LoraPass,
}

/// One that is fused.
#[derive(Clone, Debug, PartialEq)]
pub struct ActiveLora {
    pub choice: LoraChoice,
    /// Largest rank of its modules.
    pub rank: usize,
    /// Weight matrices of the model that it changes.
    pub matrices: usize,
    /// Keys of its file that fit nothing here.
    pub unmatched: Vec<String>,
}

/// What a change of the fused LoRAs did.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LoraReport {
    pub active: Vec<ActiveLora>,
    /// Weight matrices that any of them changes.
    pub changed: usize,
    /// Weight matrices that were changed before and are the checkpoint's again.
    pub restored: usize,
}

/// What a file's header says.
#[derive(Clone, Debug, PartialEq)]
pub struct LoraSummary {
    /// Its path inside the folder, with slashes.
    pub name: String,
    pub bytes: u64,
    pub modules: usize,
    /// Largest rank of its modules.
    pub rank: usize,
    /// When all modules have the same.
    pub alpha: Option<f64>,
    /// Why the model cannot use it, if so.
    pub problem: Option<String>,
}

/// Reads what the header of the file at a path says of the LoRA of this name, and whether it fits.
pub type InspectLora = Arc<dyn Fn(&Path, String) -> LoraSummary + Send + Sync>;

/// Why the LoRAs from before are still the fused ones.
#[derive(Clone, Debug, thiserror::Error)]
pub enum SetLorasError {
    #[error("{0}")]
    NotFound(String),
    /// The file cannot be used with this model.
    #[error("{0}")]
    Bad(String),
    /// With these scales the weights would hold NaN or infinite values.
    #[error("{0}")]
    NotFinite(String),
    /// The cause is for the log, not for the caller.
    #[error("changing the weights failed: {0}")]
    Backend(String),
}

impl From<&LoraChoice> for v1::LoraSelection {
    fn from(choice: &LoraChoice) -> Self {
        let LoraChoice { name, scale, trigger_words, blocks, pass, .. } = choice;
        Self {
            name: name.clone(),
            scale: Some(*scale),
            trigger_words: trigger_words.clone(),
            blocks: blocks.into(),
            pass: pass.written(),
        }
    }
}

impl From<&ActiveLora> for v1::ActiveLora {
    fn from(lora: &ActiveLora) -> Self {
        Self {
            name: lora.choice.name.clone(),
            scale: lora.choice.scale,
            trigger_words: lora.choice.trigger_words.clone(),
            rank: lora.rank as u32,
            matrices: lora.matrices as u32,
            unmatched: lora.unmatched.clone(),
            blocks: (&lora.choice.blocks).into(),
            pass: lora.choice.pass.written(),
        }
    }
}
