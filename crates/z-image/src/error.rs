//! Translates a library's errors to those of a job.

use std::error::Error;

use llm_dit_device::is_out_of_memory;
use llm_dit_engine::image::GenerateError;
use llm_dit_weights::LoadError;

/// A [`GenerateError`] that `?` makes of the errors of candle and of the weights.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct DrawError(GenerateError);

impl DrawError {
    /// The backend failed with this error.
    pub(crate) fn backend(error: &(dyn Error + 'static)) -> Self {
        let cause = error.to_string();
        Self(if is_out_of_memory(error) {
            tracing::error!(cause, "the device is out of memory");
            GenerateError::OutOfMemory
        } else {
            GenerateError::Backend(cause)
        })
    }
}

impl From<candle_core::Error> for DrawError {
    fn from(error: candle_core::Error) -> Self {
        Self::backend(&error)
    }
}

impl From<LoadError> for DrawError {
    fn from(error: LoadError) -> Self {
        Self::backend(&error)
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
