//! `/api/session`: a key for a browser, which cannot send one with every picture that it shows.

use std::sync::Arc;

use axum::{
    Extension,
    extract::{Request, State},
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse as _, Response},
};
use llm_dit_fault::Fault;
use serde::Deserialize;
use utoipa::ToSchema;

use super::problem::Problems;
use crate::{api::body, forwarded::Place, records::problem::Problem, state::AppState};

/// Who begins a session.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct SessionBody {
    key: String,
}

/// Starts a session: the cookie in the response replaces the key.
#[utoipa::path(
    post, path = "/api/session", tag = "session", request_body = SessionBody,
    responses((status = 204, description = "The cookie is set, or not needed"), Problems)
)]
pub(crate) async fn begin(
    State(state): State<Arc<AppState>>,
    request: Request,
) -> Result<Response, Problem> {
    let place = request.extensions().get::<Place>().cloned();
    let SessionBody { key } = body::json(&state.memory, request, &["key"]).await?;
    let Some(keys) = &state.guard.keys else { return Ok(answer(None)) };
    let name = keys.check_key(key.trim());
    let name = name.map_err(|denied| Fault::Unauthenticated(denied.to_string()))?;
    tracing::info!(caller = &*name, "started a session");
    Ok(answer(place.and_then(|place| state.guard.session(key.trim(), &place))))
}

/// Ends the session: its cookie is not accepted any more.
#[utoipa::path(
    delete, path = "/api/session", tag = "session",
    responses((status = 204, description = "The session is over and the cookie removed"), Problems)
)]
pub(crate) async fn end(
    State(state): State<Arc<AppState>>,
    Extension(place): Extension<Place>,
    headers: HeaderMap,
) -> Response {
    if let Some(ended) = state.guard.end_session(&headers)
        && let Some(history) = &state.settings
        && let Err(fault) = history.keep_sessions(ended).await
    {
        tracing::error!(%fault, "failed to store the end of a session; after a restart its cookie would be accepted");
    }
    answer(state.guard.no_session(&place))
}

fn answer(cookie: Option<HeaderValue>) -> Response {
    let mut response = StatusCode::NO_CONTENT.into_response();
    response.headers_mut().extend(cookie.map(|cookie| (header::SET_COOKIE, cookie)));
    response
}
