//! Why a LoRA file cannot be used.

/// Messages call the file by the label that it was opened with.
#[derive(Debug, thiserror::Error)]
pub enum LoraError {
    #[error("no LoRA file {file}")]
    NotFound { file: String },
    #[error("cannot read LoRA {file}: {cause}")]
    Io { file: String, cause: std::io::Error },
    #[error(
        "LoRA {file} is not a safetensors file; pickled files (.bin, .pt, .ckpt) can run code and are not supported: convert it with safetensors.torch.save_file"
    )]
    Pickle { file: String },
    #[error("LoRA {file} is not valid: {cause}")]
    Invalid { file: String, cause: String },
    #[error(
        "LoRA {file} has '{key}', which is {kind}; LoRA, DoRA, LoHa, LoKr, OFT and differences of whole tensors (.diff, .diff_b) are supported"
    )]
    Kind { file: String, key: String, kind: &'static str },
    #[error("LoRA {file} has '{key}', but its other factor, {lacks}, is missing")]
    Incomplete { file: String, key: String, lacks: &'static str },
    #[error("LoRA {file}: '{key}' contains NaN or infinite values")]
    NotFinite { file: String, key: String },
    #[error("LoRA {file}: '{key}' changes a matrix of {misfit}; it was trained for another model")]
    Shape { file: String, key: String, misfit: String },
    #[error("LoRA {file}: '{key}' is a difference of {misfit}; it was trained for another model")]
    Difference { file: String, key: String, misfit: String },
    #[error("LoRA {file}: '{first}' and '{second}' both change '{tensor}'")]
    Twice { file: String, first: String, second: String, tensor: String },
    #[error(
        "LoRA {file} matches no module of this model: it has {theirs}; the model has {ours}; it was trained for another architecture"
    )]
    NoMatch { file: String, theirs: String, ours: String },
    #[error("LoRA {file}: the model has no block '{block}'; its tensors are in {ours}")]
    Block { file: String, block: String, ours: String },
    #[error("LoRA {file}: the scale {scale} is not a finite number")]
    Scale { file: String, scale: f32 },
    #[error("reading a LoRA failed: {0}")]
    Backend(String),
}

impl LoraError {
    pub(super) fn backend(error: candle_core::Error) -> Self {
        Self::Backend(error.to_string())
    }
}
