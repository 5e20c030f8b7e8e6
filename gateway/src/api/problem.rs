//! Problems as HTTP answers.

use axum::{
    Json,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use utoipa::IntoResponses;

use crate::records::problem::Problem;

/// What any endpoint may answer in place of what was hoped for.
#[derive(IntoResponses)]
#[expect(dead_code, reason = "describes the answers in the OpenAPI document")]
pub(crate) enum Problems {
    /// The request is invalid, or not supported by this server.
    #[response(status = "4XX", content_type = "application/problem+json")]
    Client(Problem),
    /// The services behind the gateway are busy, unavailable or failing.
    #[response(status = "5XX", content_type = "application/problem+json")]
    Server(Problem),
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let copy = self.clone();
        let mut response = with_body(self, |problem| Json(problem).into_response());
        // For the middleware of refusals.
        response.extensions_mut().insert(copy);
        response
    }
}

/// The answer with another body made of the problem.
pub(crate) fn with_body(problem: Problem, body: impl FnOnce(Problem) -> Response) -> Response {
    let (status, retry_after) = (problem.status(), problem.retry_after());
    let mut response = body(problem);
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
    if status == StatusCode::UNAUTHORIZED {
        headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    }
    if let Some(seconds) = retry_after {
        headers.insert(header::RETRY_AFTER, seconds.into());
    }
    response
}
