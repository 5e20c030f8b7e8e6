//! Errors of the gateway.

use std::io;

use llm_dit_fault::Fault;
use llm_dit_params::ParamError;
use llm_dit_serving::{
    Remote,
    client::{self, BadUrl},
};
use llm_dit_templates::{TemplateError, UnknownTemplate};
use tonic::Status;

/// Why the gateway cannot start or answer.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Ours, or what a service answered.
    #[error("{0}")]
    Fault(#[from] Fault),
    /// A service that had begun to answer was lost, or talks nonsense.
    #[error("{0}")]
    Lost(String),
    /// The connection to a service ended while it ran the request: most likely the service crashed.
    #[error("{0}")]
    Crashed(String),
    #[error("{0}")]
    BadUrl(#[from] BadUrl),
    #[error("{0}")]
    Templates(#[from] TemplateError),
    #[error("{0}")]
    History(String),
    #[error("{0}")]
    Queue(String),
    #[error("{0}")]
    Alias(String),
    #[error("the listening socket failed: {0}")]
    Socket(io::Error),
}

impl Error {
    /// What a failed call means whose request was sent: a connection that ends then is a crash.
    pub(crate) fn of_sent(remote: &Remote, status: Status) -> Self {
        let lost = client::lost_connection(&status);
        match remote.fault(status) {
            Fault::Unavailable(message) if lost => Self::Crashed(message),
            fault => Self::Fault(fault),
        }
    }

    /// So many services crashed with one request, the last one with this message.
    pub(crate) fn crashes(count: u32, message: &str) -> Self {
        if count < 2 {
            return Self::Crashed(message.to_owned());
        }
        Self::Crashed(format!(
            "{count} services crashed while they ran this; the last: {message}; if they ran out of memory, use a smaller size"
        ))
    }

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
