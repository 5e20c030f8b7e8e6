//! From a model folder to an engine and its tokenizer.

use std::path::PathBuf;

use llm_dit_chat::ChatTokenizer;
use llm_dit_proto::DType;
use llm_dit_weights::{DeviceChoice, LoadError};

use crate::engine::TextEncoder;

/// What to load and where.
#[derive(Clone, Debug)]
pub struct EncoderOptions {
    /// A diffusers folder with `text_encoder/` and `tokenizer/`.
    pub model_path: PathBuf,
    pub device: DeviceChoice,
    /// What to compute in; `None`: f32 on the CPU, bf16 on an accelerator.
    pub dtype: Option<DType>,
}

/// Loads `text_encoder/` and `tokenizer/`.
pub fn load(options: &EncoderOptions) -> Result<(Box<dyn TextEncoder>, ChatTokenizer), LoadError> {
    Err(LoadError::Backend(format!("not merged yet: {options:?}")))
}
