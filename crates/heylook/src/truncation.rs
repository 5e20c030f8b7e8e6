//! Where heylookitsanllm truncates.

use llm_dit_params::Truncation;

use crate::HeylookError;

/// Refuses a cut that the server cannot make: it takes a finished text, and cuts that at its end.
///
/// # Errors
///
/// [`HeylookError::Truncation`] for [`Truncation::Prompt`].
pub fn check_truncation(asked: Option<Truncation>) -> Result<(), HeylookError> {
    match asked {
        Some(Truncation::Prompt) => Err(HeylookError::Truncation),
        Some(Truncation::End) | None => Ok(()),
    }
}
