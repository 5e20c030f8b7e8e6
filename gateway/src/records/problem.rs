//! Errors as clients get them: RFC 9457 problems, and the one table from our faults to statuses.

use std::borrow::Cow;

use http::StatusCode;
use llm_dit_fault::{Fault, bounded};
use llm_dit_telemetry::request_id::RequestId;
use serde::{Deserialize, Deserializer, Serialize};
use utoipa::ToSchema;

use crate::error::Error;

/// An error answer. `detail` is also what clients of the Python program read.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub(crate) struct Problem {
    /// Always `about:blank`: the status identifies the kind of problem.
    #[serde(rename = "type")]
    kind: Cow<'static, str>,
    /// Meaning of the status.
    title: Cow<'static, str>,
    #[serde(serialize_with = "as_u16", deserialize_with = "from_u16")]
    #[schema(value_type = u16)]
    status: StatusCode,
    /// What is wrong with this request, and how to fix it.
    pub detail: String,
    /// The request id in the logs of all services, as in the header X-Request-Id.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    request_id: Option<String>,
    /// Seconds to wait before a retry.
    #[serde(skip)]
    retry_after: Option<u64>,
}

/// Seconds after which a service that is starting or was lost may be back.
const RETRY_UNAVAILABLE: u64 = 5;

impl Problem {
    fn new(status: StatusCode, title: &'static str, detail: impl Into<String>) -> Self {
        let request_id = RequestId::current().map(|id| id.as_str().to_owned());
        let (kind, title) = (Cow::Borrowed("about:blank"), Cow::Borrowed(title));
        let detail = bounded(detail.into());
        Self { kind, title, status, detail, request_id, retry_after: None }
    }

    /// A refusal that has no words of ours.
    pub fn refusal(status: StatusCode, detail: impl Into<String>) -> Self {
        Self::new(status, status.canonical_reason().unwrap_or("Refused"), detail)
    }

    pub fn method_not_allowed(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::METHOD_NOT_ALLOWED, "Method not allowed", detail)
    }

    pub fn forbidden(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::FORBIDDEN, "Forbidden", detail)
    }

    pub fn unsupported_media_type(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "Unsupported media type", detail)
    }

    pub fn conflict(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::CONFLICT, "Not yet", detail)
    }

    pub fn unprocessable(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, "Key used before", detail)
    }

    pub fn gone(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::GONE, "Gone", detail)
    }

    pub fn insufficient_storage(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::INSUFFICIENT_STORAGE, "Folder full", detail)
    }

    pub fn cancelled() -> Self {
        Fault::Cancelled("the job was cancelled".to_owned()).into()
    }

    pub fn status(&self) -> StatusCode {
        self.status
    }

    /// The same refusal under a status after which no client repeats the request: 501 and 507 say that
    /// this server will not do it, but count as passing failures for clients of OpenAI's API.
    pub fn unrepeatable(self) -> Self {
        match self.status {
            StatusCode::NOT_IMPLEMENTED => Self { status: StatusCode::BAD_REQUEST, ..self },
            StatusCode::INSUFFICIENT_STORAGE => {
                Self { status: StatusCode::UNPROCESSABLE_ENTITY, ..self }
            }
            _ => self,
        }
    }

    /// Seconds to wait before a retry.
    pub fn retry_after(&self) -> Option<u64> {
        self.retry_after
    }

    fn internal(cause: &str) -> Self {
        tracing::error!(cause, "a request failed");
        Self::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "Internal error",
            "internal error; the server's log has the cause under this X-Request-Id",
        )
    }
}

impl From<Fault> for Problem {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::BadRequest(detail) => Self::new(StatusCode::BAD_REQUEST, "Bad request", detail),
            Fault::Unprocessable(detail) => {
                Self::new(StatusCode::UNPROCESSABLE_ENTITY, "No result", detail)
            }
            Fault::TooLarge(detail) => {
                Self::new(StatusCode::PAYLOAD_TOO_LARGE, "Request too large", detail)
            }
            Fault::Unsupported(detail) => {
                Self::new(StatusCode::NOT_IMPLEMENTED, "Not supported by this server", detail)
            }
            Fault::Unauthenticated(detail) => {
                Self::new(StatusCode::UNAUTHORIZED, "Key needed", detail)
            }
            Fault::NotFound(detail) => Self::new(StatusCode::NOT_FOUND, "Not found", detail),
            Fault::Busy { message, retry_after } => Self {
                retry_after: Some(retry_after.as_secs().max(1)),
                ..Self::new(StatusCode::SERVICE_UNAVAILABLE, "Busy", message)
            },
            Fault::Unavailable(detail) => Self {
                retry_after: Some(RETRY_UNAVAILABLE),
                ..Self::new(StatusCode::SERVICE_UNAVAILABLE, "Service unavailable", detail)
            },
            Fault::OutOfMemory(detail) => {
                Self::new(StatusCode::INSUFFICIENT_STORAGE, "Out of memory", detail)
            }
            Fault::Deadline(detail) => Self::new(StatusCode::GATEWAY_TIMEOUT, "Timed out", detail),
            // nginx's "client closed request": either nobody reads this, or the service was told to
            // stop.
            Fault::Cancelled(detail) => Self::new(
                StatusCode::from_u16(499).unwrap_or(StatusCode::SERVICE_UNAVAILABLE),
                "Cancelled",
                detail,
            ),
            Fault::Internal(cause) => Self::internal(&cause),
        }
    }
}

impl From<Error> for Problem {
    fn from(error: Error) -> Self {
        match error {
            Error::Fault(fault) => fault.into(),
            Error::Lost(detail) | Error::Crashed(detail) => {
                tracing::warn!(detail, "lost a service in the middle of its response");
                Self::new(StatusCode::BAD_GATEWAY, "Service lost", detail)
            }
            Error::BadUrl(error) => Self::internal(&error.to_string()),
            Error::Templates(error) => Self::internal(&error.to_string()),
            Error::History(cause) | Error::Queue(cause) | Error::Alias(cause) => {
                Self::internal(&cause)
            }
            Error::Socket(error) => Self::internal(&error.to_string()),
        }
    }
}

fn from_u16<'de, D: Deserializer<'de>>(deserializer: D) -> Result<StatusCode, D::Error> {
    let status = u16::deserialize(deserializer)?;
    StatusCode::from_u16(status).map_err(serde::de::Error::custom)
}

fn as_u16<S: serde::Serializer>(status: &StatusCode, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u16(status.as_u16())
}
