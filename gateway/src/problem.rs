//! Errors as HTTP has them: RFC 9457 problems, and the one table from our faults to statuses.

use axum::{
    Json,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use llm_dit_proto::Fault;
use serde::Serialize;

use crate::error::Error;

/// An error answer. `detail` is also what clients of the Python program read.
#[derive(Debug, Serialize)]
pub(crate) struct Problem {
    /// What the status means.
    title: &'static str,
    #[serde(serialize_with = "as_u16")]
    status: StatusCode,
    /// What is wrong with this request and how to mend it.
    detail: String,
    /// Seconds after which to try again.
    #[serde(skip)]
    retry_after: Option<u64>,
}

/// Seconds after which a service that is starting or was lost may be back.
const RETRY_UNAVAILABLE: u64 = 5;

impl Problem {
    fn new(status: StatusCode, title: &'static str, detail: impl Into<String>) -> Self {
        Self { title, status, detail: detail.into(), retry_after: None }
    }

    pub fn method_not_allowed(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::METHOD_NOT_ALLOWED, "Method not allowed", detail)
    }

    pub fn unsupported_media_type(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "Unsupported media type", detail)
    }

    fn internal(cause: &str) -> Self {
        tracing::error!(cause, "a request failed");
        Self::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "Internal error",
            "something failed inside; the server's log has the cause under this X-Request-Id",
        )
    }
}

impl From<Fault> for Problem {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::BadRequest(detail) => Self::new(StatusCode::BAD_REQUEST, "Bad request", detail),
            Fault::TooLarge(detail) => {
                Self::new(StatusCode::PAYLOAD_TOO_LARGE, "Request too large", detail)
            }
            Fault::Unsupported(detail) => {
                Self::new(StatusCode::NOT_IMPLEMENTED, "Not supported by this server", detail)
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
            Error::Lost(detail) => {
                tracing::warn!(detail, "a service was lost in the middle of its answer");
                Self::new(StatusCode::BAD_GATEWAY, "Service lost", detail)
            }
            Error::BadUrl(error) => Self::internal(&error.to_string()),
            Error::Templates(error) => Self::internal(&error.to_string()),
            Error::Socket(error) => Self::internal(&error.to_string()),
        }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let (status, retry_after) = (self.status, self.retry_after);
        let mut response = (status, Json(self)).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if let Some(seconds) = retry_after {
            headers.insert(header::RETRY_AFTER, seconds.into());
        }
        response
    }
}

fn as_u16<S: serde::Serializer>(status: &StatusCode, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u16(status.as_u16())
}
