//! What a library's error means for a job.

use llm_dit_engine::image::GenerateError;
use llm_dit_weights::{LoadError, is_out_of_memory};

/// A [`GenerateError`] that `?` makes of the errors of candle and of the weights.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct DrawError(GenerateError);

impl DrawError {
    /// The backend failed with these words.
    pub(crate) fn backend(cause: String) -> Self {
        Self(if is_out_of_memory(&cause) {
            tracing::error!(cause, "the device is out of memory");
            GenerateError::OutOfMemory
        } else {
            GenerateError::Backend(cause)
        })
    }
}

impl From<candle_core::Error> for DrawError {
    fn from(error: candle_core::Error) -> Self {
        Self::backend(error.to_string())
    }
}

impl From<LoadError> for DrawError {
    fn from(error: LoadError) -> Self {
        Self::backend(error.to_string())
    }
}

impl From<GenerateError> for DrawError {
    fn from(error: GenerateError) -> Self {
        Self(error)
    }
}

impl From<DrawError> for GenerateError {
    fn from(error: DrawError) -> Self {
        error.0
    }
}
