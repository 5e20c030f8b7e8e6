//! Why a checkpoint could not be loaded, with the file and the fix in the message.

use std::path::PathBuf;

use crate::lora::LoraError;

#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    #[error("unknown device '{0}'; use auto, cpu, cuda, cuda:N or metal")]
    UnknownDevice(String),
    #[error(
        "this build has no {feature} backend for device {device}; build with `--features {feature}` or choose cpu"
    )]
    NoBackend { device: String, feature: &'static str },
    #[error("device {device} cannot be opened: {cause}")]
    Device { device: String, cause: String },
    #[error(
        "no model at {path}: {what} is missing; --model-path takes a diffusers folder, the one that holds model_index.json, and --dit-path, --text-encoder-path and --vae-path take single files"
    )]
    NotAModel { path: PathBuf, what: String },
    #[error("there is no file {path}")]
    NoFile { path: PathBuf },
    #[error("{0}")]
    NoDemoModel(String),
    #[error(
        "--text-encoder-path needs --model-path as well: the folder with the tokenizer/ that belongs to it"
    )]
    NoTokenizer,
    #[error("cannot read {path}: {cause}")]
    Io { path: PathBuf, cause: std::io::Error },
    #[error("{path} is not valid: {cause}")]
    Invalid { path: PathBuf, cause: String },
    #[error("{path} has no tensor '{name}' (expected shape {expected:?})")]
    MissingTensor { path: PathBuf, name: String, expected: Vec<usize> },
    #[error("tensor '{name}' in {path} has shape {found:?}, but {expected:?} is expected")]
    Shape { path: PathBuf, name: String, found: Vec<usize>, expected: Vec<usize> },
    #[error(
        "{path} has tensors that this model does not have: {names}; it may belong to another model"
    )]
    ExtraTensors { path: PathBuf, names: String },
    #[error("with the LoRAs, tensor '{name}' has NaN or infinite values; lower their scales")]
    Overflow { name: String },
    #[error(transparent)]
    Lora(#[from] LoraError),
    #[error("loading failed: {0}")]
    Backend(String),
}

impl LoadError {
    pub(crate) fn device(device: impl ToString, cause: &candle_core::Error) -> Self {
        Self::Device { device: device.to_string(), cause: cause.to_string() }
    }
}

impl From<candle_core::Error> for LoadError {
    fn from(error: candle_core::Error) -> Self {
        Self::Backend(error.to_string())
    }
}
