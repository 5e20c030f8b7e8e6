//! Problems with a member `error`, where OpenAI's clients look.

use axum::{
    Json,
    response::{IntoResponse, Response},
};
use serde::Serialize;
use utoipa::{IntoResponses, ToSchema};

use crate::{api::problem::with_body, error::Error, records::problem::Problem};

/// A problem that OpenAI's clients can read too.
#[derive(Debug)]
pub(crate) struct OpenAiProblem(pub Problem);

#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct OpenAiProblemBody {
    #[serde(flatten)]
    problem: Problem,
    error: OpenAiError,
}

#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct OpenAiError {
    message: String,
    /// `invalid_request_error` or `server_error`.
    #[serde(rename = "type")]
    kind: &'static str,
    #[schema(required = true)]
    param: Option<String>,
    #[schema(required = true)]
    code: Option<&'static str>,
}

/// What any of these endpoints may answer in place of what was hoped for.
#[derive(IntoResponses)]
#[expect(dead_code, reason = "describes the answers in the OpenAPI document")]
pub(crate) enum OpenAiProblems {
    /// The request is invalid, or not supported by this server.
    #[response(status = "4XX", content_type = "application/problem+json")]
    Client(OpenAiProblemBody),
    /// The services behind the gateway are busy, unavailable or failing.
    #[response(status = "5XX", content_type = "application/problem+json")]
    Server(OpenAiProblemBody),
}

impl From<&Problem> for OpenAiError {
    fn from(problem: &Problem) -> Self {
        let status = problem.status();
        Self {
            message: problem.detail.clone(),
            kind: if status.is_client_error() { "invalid_request_error" } else { "server_error" },
            param: None,
            code: (status.as_u16() == 404).then_some("not_found"),
        }
    }
}

impl<E: Into<Problem>> From<E> for OpenAiProblem {
    fn from(error: E) -> Self {
        Self(error.into())
    }
}

impl IntoResponse for OpenAiProblem {
    fn into_response(self) -> Response {
        // OpenAI's clients repeat a request whose status is 500 or above.
        with_body(self.0.unrepeatable(), |problem| {
            let error = OpenAiError::from(&problem);
            Json(OpenAiProblemBody { problem, error }).into_response()
        })
    }
}

/// The data of an event that ends a stream badly.
pub(super) fn event(error: Error) -> serde_json::Value {
    let problem = Problem::from(error).unrepeatable();
    serde_json::json!({ "error": OpenAiError::from(&problem) })
}
