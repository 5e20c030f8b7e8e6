//! Errors of the gateway.

use std::io;

use llm_dit_fault::Fault;
use llm_dit_params::ParamError;
use llm_dit_serving::client::BadUrl;
use llm_dit_templates::{TemplateError, UnknownTemplate};

/// Why the gateway cannot start or answer.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Ours, or what a service answered.
    #[error("{0}")]
    Fault(#[from] Fault),
    /// A service that had begun to answer was lost, or talks nonsense.
    #[error("{0}")]
    Lost(String),
    #[error("{0}")]
    BadUrl(#[from] BadUrl),
    #[error("{0}")]
    Templates(#[from] TemplateError),
    #[error("{0}")]
    History(String),
    #[error("the listening socket failed: {0}")]
    Socket(io::Error),
}

impl Error {
    /// The same fault, come in the middle of an answer.
    pub(crate) fn midway(fault: Fault) -> Self {
        match fault {
            Fault::Unavailable(message) => Self::Lost(message),
            fault => Self::Fault(fault),
        }
    }
}

/// A request that is wrong, with what to mend.
pub(crate) fn bad(message: String) -> Error {
    Fault::BadRequest(message).into()
}

impl From<UnknownTemplate> for Error {
    fn from(error: UnknownTemplate) -> Self {
        Self::Fault(Fault::BadRequest(error.to_string()))
    }
}

impl From<ParamError> for Error {
    fn from(error: ParamError) -> Self {
        Self::Fault(error.into())
    }
}
