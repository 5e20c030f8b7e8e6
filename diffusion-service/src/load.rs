//! From a model folder to an engine.

use std::path::PathBuf;

use llm_dit_proto::DType;
use llm_dit_weights::{DeviceChoice, LoadError};

use crate::engine::ImageGenerator;

/// What to load and where.
#[derive(Clone, Debug)]
pub struct DiffusionOptions {
    /// A diffusers folder with `transformer/`, `vae/` and `scheduler/`.
    pub model_path: PathBuf,
    pub device: DeviceChoice,
    /// What the DiT computes in; `None`: f32 on the CPU, bf16 on an accelerator.
    pub dtype: Option<DType>,
}

/// Loads `transformer/`, `vae/` and `scheduler/`.
pub fn load(options: &DiffusionOptions) -> Result<Box<dyn ImageGenerator>, LoadError> {
    Err(LoadError::Backend(format!("not merged yet: {options:?}")))
}
