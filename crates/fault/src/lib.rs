//! The errors that callers see, and their one translation to gRPC.

mod text;

use std::time::Duration;

use llm_dit_params::ParamError;
use thiserror::Error;
use tonic::{Code, Status, metadata::MetadataValue};

pub use text::{MAX_TEXT_BYTES, bounded};

/// Metadata key that carries [`Fault::Busy`]'s delay in whole seconds.
const RETRY_AFTER: &str = "retry-after";
/// Metadata key that tells faults apart which share a code.
const REASON: &str = "reason";
const OUT_OF_MEMORY: &str = "out-of-memory";
/// Tells [`Fault::Unprocessable`] from a request that is wrong in itself.
const UNPROCESSABLE: &str = "unprocessable";

/// An error as a caller may see it. Internal causes are logged where they happen and do not
/// travel; the message of every kind but [`Fault::Internal`] says how to mend the request.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum Fault {
    /// The request is wrong and will stay wrong.
    #[error("{0}")]
    BadRequest(String),
    /// The request is well-formed, but its values lead to no result.
    #[error("{0}")]
    Unprocessable(String),
    /// The request is larger than the service takes.
    #[error("{0}")]
    TooLarge(String),
    /// The request is fine, but this server is not set up for it.
    #[error("{0}")]
    Unsupported(String),
    #[error("{0}")]
    NotFound(String),
    /// The caller showed no key, or a wrong one.
    #[error("{0}")]
    Unauthenticated(String),
    /// The queue is full.
    #[error("{message}")]
    Busy { message: String, retry_after: Duration },
    /// The device has no memory for this; another one might.
    #[error("{0}")]
    OutOfMemory(String),
    #[error("{0}")]
    Deadline(String),
    #[error("{0}")]
    Cancelled(String),
    /// A service that we depend on cannot be reached, or is going away.
    #[error("{0}")]
    Unavailable(String),
    #[error("{0}")]
    Internal(String),
}

impl From<ParamError> for Fault {
    fn from(error: ParamError) -> Self {
        let message = error.to_string();
        match error {
            ParamError::PromptTooLong { .. } => Self::TooLarge(message),
            ParamError::UnknownModel { .. } => Self::NotFound(message),
            ParamError::NotMultiple { .. }
            | ParamError::OutOfRange { .. }
            | ParamError::TooManyPixels { .. }
            | ParamError::BadNumber { .. }
            | ParamError::NoSteps { .. }
            | ParamError::UnknownScheduler { .. }
            | ParamError::TextTooLong { .. }
            | ParamError::TooManyLoras { .. }
            | ParamError::Invalid { .. }
            | ParamError::EmptyPrompt => Self::BadRequest(message),
        }
    }
}

impl From<Fault> for Status {
    fn from(fault: Fault) -> Self {
        let message = bounded(fault.to_string());
        match fault {
            Fault::BadRequest(_) | Fault::TooLarge(_) => Status::invalid_argument(message),
            Fault::Unprocessable(_) => {
                let mut status = Status::invalid_argument(message);
                status.metadata_mut().insert(REASON, MetadataValue::from_static(UNPROCESSABLE));
                status
            }
            Fault::Unsupported(_) => Status::failed_precondition(message),
            Fault::NotFound(_) => Status::not_found(message),
            Fault::Unauthenticated(_) => Status::unauthenticated(message),
            Fault::Busy { retry_after, .. } => {
                let mut status = Status::resource_exhausted(message);
                status
                    .metadata_mut()
                    .insert(RETRY_AFTER, MetadataValue::from(retry_after.as_secs().max(1)));
                status
            }
            Fault::OutOfMemory(_) => {
                let mut status = Status::resource_exhausted(message);
                status.metadata_mut().insert(REASON, MetadataValue::from_static(OUT_OF_MEMORY));
                status
            }
            Fault::Deadline(_) => Status::deadline_exceeded(message),
            Fault::Cancelled(_) => Status::cancelled(message),
            Fault::Unavailable(_) => Status::unavailable(message),
            Fault::Internal(_) => Status::internal(message),
        }
    }
}

impl From<Status> for Fault {
    /// Reads a status that one of our services, or the transport, answered with.
    fn from(status: Status) -> Self {
        let message = bounded(status.message().to_owned());
        match status.code() {
            Code::InvalidArgument
                if status.metadata().get(REASON).is_some_and(|why| why == UNPROCESSABLE) =>
            {
                Self::Unprocessable(message)
            }
            Code::InvalidArgument | Code::OutOfRange => Self::BadRequest(message),
            Code::FailedPrecondition | Code::Unimplemented => Self::Unsupported(message),
            Code::NotFound => Self::NotFound(message),
            Code::Unauthenticated => Self::Unauthenticated(message),
            Code::ResourceExhausted
                if status.metadata().get(REASON).is_some_and(|why| why == OUT_OF_MEMORY) =>
            {
                Self::OutOfMemory(message)
            }
            Code::ResourceExhausted => {
                let seconds = status
                    .metadata()
                    .get(RETRY_AFTER)
                    .and_then(|v| v.to_str().ok()?.parse().ok())
                    .unwrap_or(1);
                Self::Busy { message, retry_after: Duration::from_secs(seconds) }
            }
            Code::DeadlineExceeded => Self::Deadline(message),
            Code::Cancelled => Self::Cancelled(message),
            Code::Unavailable => Self::Unavailable(message),
            Code::Ok
            | Code::Unknown
            | Code::AlreadyExists
            | Code::PermissionDenied
            | Code::Aborted
            | Code::Internal
            | Code::DataLoss => Self::Internal(message),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_survives_the_wire() {
        let text = || "why".to_owned();
        for fault in [
            Fault::BadRequest(text()),
            Fault::Unprocessable(text()),
            Fault::Unsupported(text()),
            Fault::NotFound(text()),
            Fault::Unauthenticated(text()),
            Fault::Busy { message: text(), retry_after: Duration::from_secs(7) },
            Fault::OutOfMemory(text()),
            Fault::Deadline(text()),
            Fault::Cancelled(text()),
            Fault::Unavailable(text()),
            Fault::Internal(text()),
        ] {
            assert_eq!(Fault::from(Status::from(fault.clone())), fault);
        }
    }

    #[test]
    fn texts_are_bounded_in_both_directions() {
        let long = || "n".repeat(70_000);
        let status = Status::from(Fault::BadRequest(long()));
        assert_eq!(status.message().len(), MAX_TEXT_BYTES - 6);
        let fault = Fault::from(Status::internal(long()));
        assert_eq!(fault.to_string().len(), MAX_TEXT_BYTES - 6);
    }
}
