//! Why a checkpoint could not be loaded, with the file and the fix in the message.

use std::path::PathBuf;

use llm_dit_device::DeviceError;

use crate::lora::LoraError;

/// Why a model or one of its parts cannot be loaded.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    #[error(transparent)]
    Device(#[from] DeviceError),
    #[error(
        "no model at {path}: {what} is missing; --model-path takes a diffusers folder, the one that holds model_index.json, and --dit-path, --text-encoder-path and --vae-path take single files"
    )]
    NotAModel { path: PathBuf, what: String },
    #[error("there is no file {path}")]
    NoFile { path: PathBuf },
    #[error("{0}")]
    NoDemoModel(String),
    #[error("cannot read {path}: {cause}")]
    Io { path: PathBuf, cause: std::io::Error },
    #[error("{path} is not valid: {cause}")]
    Invalid { path: PathBuf, cause: String },
    #[error("{path} has no tensor '{name}' (expected shape {expected:?})")]
    MissingTensor { path: PathBuf, name: String, expected: Vec<usize> },
    #[error("tensor '{name}' in {path} has shape {found:?}, but {expected:?} is expected")]
    Shape { path: PathBuf, name: String, found: Vec<usize>, expected: Vec<usize> },
    #[error(
        "tensor '{name}' in {path} has the type {dtype}; weights are read in F32, F16, BF16, F64, F8_E4M3 and F8_E5M2"
    )]
    Type { path: PathBuf, name: String, dtype: String },
    #[error(
        "{path} has quantized weights ({sort}; tensor '{tensor}'), which are not read; use the file in bf16, f16 or f32, a GGUF file, or ComfyUI's in fp8, int8, nvfp4 or mxfp8"
    )]
    Quantized { path: PathBuf, tensor: String, sort: &'static str },
    #[error(
        "{path} has tensors that this model does not have: {names}; it may belong to another model"
    )]
    ExtraTensors { path: PathBuf, names: String },
    /// Another crate's, with its file in it.
    #[error("{0}")]
    Tokenizer(String),
    #[error("with the LoRAs, tensor '{name}' has NaN or infinite values; lower their scales")]
    Overflow { name: String },
    #[error(transparent)]
    Lora(#[from] LoraError),
    #[error("loading failed: {0}")]
    Backend(#[from] candle_core::Error),
}
