//! The access check before every route.

use std::sync::Arc;

use axum::{
    extract::{Request, State},
    middleware::Next,
    response::{IntoResponse as _, Response},
};

use super::page;
use crate::guard::Guard;

/// Answered without a key: whether the gateway is well, without saying more, and the way to a
/// session.
const OPEN: [&str; 4] = ["/health", "/livez", "/readyz", "/api/session"];

/// Turns away who may not ask.
pub(crate) async fn guard(
    State(guard): State<Arc<Guard>>,
    mut request: Request,
    next: Next,
) -> Response {
    let open = is_open(request.uri().path());
    match guard.check(&mut request, open) {
        Ok(()) => next.run(request).await,
        Err(problem) => problem.into_response(),
    }
}

fn is_open(path: &str) -> bool {
    OPEN.contains(&path) || page::paths().any(|file| file == path)
}
