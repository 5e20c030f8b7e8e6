//! Refusals as problems, whoever made them.

use axum::{
    body::to_bytes,
    extract::Request,
    http::{HeaderMap, header},
    middleware::Next,
    response::{IntoResponse as _, Response},
};
use llm_dit_fault::MAX_TEXT_BYTES;

use super::openai::OpenAiProblem;
use crate::records::problem::Problem;

/// Makes every refusal a problem, also those of the framework, which are plain text, and gives those
/// under `/v1` the member `error`. A middleware of all routes.
pub(crate) async fn everywhere(request: Request, next: Next) -> Response {
    let path = request.uri().path();
    let openai = path == "/v1" || path.starts_with("/v1/");
    let (mut parts, body) = next.run(request).await.into_parts();
    let problem = match parts.extensions.remove::<Problem>() {
        Some(problem) if openai => problem,
        None if parts.status.is_client_error() && is_text(&parts.headers) => {
            let text = to_bytes(body, MAX_TEXT_BYTES).await.unwrap_or_default();
            Problem::refusal(parts.status, String::from_utf8_lossy(&text))
        }
        Some(_) | None => return Response::from_parts(parts, body),
    };
    let made =
        if openai { OpenAiProblem(problem).into_response() } else { problem.into_response() };
    let (headers, body) = (made.headers().clone(), made.into_body());
    parts.headers.remove(header::CONTENT_LENGTH);
    for (name, value) in &headers {
        parts.headers.insert(name, value.clone());
    }
    Response::from_parts(parts, body)
}

fn is_text(headers: &HeaderMap) -> bool {
    let kind = headers.get(header::CONTENT_TYPE);
    kind.is_none_or(|kind| kind.as_bytes().starts_with(b"text/plain"))
}
