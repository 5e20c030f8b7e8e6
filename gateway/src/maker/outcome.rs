//! What an attempt comes to.

use std::sync::Arc;

use llm_dit_chat::Chat;
use llm_dit_memory::Reservation;
use llm_dit_params::GenerateParams;

use super::{checked::Checked, progress::ProgressReporter};
use crate::{backends::Backend, error::Error};

/// A picture's file as the diffusion service made it, and what is known of how.
pub(super) struct Drawn {
    pub image: Checked,
    pub params: GenerateParams,
    /// Tokens of the prompt and the negative prompt, each with how many were cut from it.
    pub tokens: [(u32, u32); 2],
    pub cached: bool,
    /// With the trigger words.
    pub chat: Chat,
    /// Covers the file, and its conversion.
    pub memory: Reservation,
}

/// Why an attempt came to nothing.
pub(super) enum Failure {
    /// Another machine would say the same.
    Final(Error),
    /// The diffusion service could not, and had not begun.
    Diffusion(Error),
    /// The diffusion service lacks the model that the request names.
    Lacks(Error),
    /// An encoder broke off.
    Encoder(Arc<Backend>, Error),
}

impl Failure {
    /// A diffusion service broke off, or sent what cannot be used: another one may begin as well, unless
    /// a client has heard of steps.
    pub fn of_answer(reporter: &ProgressReporter<'_>, error: Error) -> Self {
        if reporter.has_reported_steps() { Self::Final(error) } else { Self::Diffusion(error) }
    }
}

impl<E: Into<Error>> From<E> for Failure {
    fn from(error: E) -> Self {
        Self::Final(error.into())
    }
}
