//! The access check before every route.

use std::sync::Arc;

use axum::{
    extract::{Request, State},
    middleware::Next,
    response::{IntoResponse as _, Response},
};

use super::{openai::OpenAiProblem, page};
use crate::{guard::Guard, records::problem::Problem};

/// Answered without a key: whether the gateway is well, without saying more, and the way to a
/// session.
const OPEN: [&str; 2] = ["/health", "/api/session"];

/// Turns away who may not ask.
pub(crate) async fn guard(
    State(guard): State<Arc<Guard>>,
    mut request: Request,
    next: Next,
) -> Response {
    let open = is_open(request.uri().path());
    match guard.check(&mut request, open) {
        Ok(()) => next.run(request).await,
        Err(problem) => refuse(request.uri().path(), problem),
    }
}

fn is_open(path: &str) -> bool {
    OPEN.contains(&path) || page::paths().any(|file| file == path)
}

/// In the words that the path's clients understand.
fn refuse(path: &str, problem: Problem) -> Response {
    if path.starts_with("/v1/") {
        OpenAiProblem(problem).into_response()
    } else {
        problem.into_response()
    }
}
