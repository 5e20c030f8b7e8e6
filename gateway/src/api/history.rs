//! `/api/history`: pictures that were generated before.

use axum::{
    Json,
    extract::{Path, Query, State, rejection::QueryRejection},
    http::{HeaderValue, header},
    response::{IntoResponse as _, Response},
};
use llm_dit_fault::Fault;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::{Shared, problem::Problems};
use crate::{
    history::{Entry, History, Page},
    records::problem::Problem,
    records::request::GenerateBody,
    state::AppState,
};

const DEFAULT_LIMIT: usize = 50;
const MAX_LIMIT: usize = 200;

/// A picture that was made before.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct EntryBody {
    id: u64,
    /// RFC 3339.
    timestamp: String,
    media_type: String,
    /// Size of the file.
    bytes: u64,
    image_url: String,
    thumbnail_url: String,
    /// Seconds.
    generation_time: f64,
    formatted_prompt: String,
    /// As a new request, they generate the same image.
    parameters: GenerateBody,
}

#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct HistoryBody {
    /// Newest first.
    history: Vec<EntryBody>,
    /// Number of all entries.
    total: u64,
}

#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct DeletedBody {
    deleted: u64,
    remaining: u64,
}

#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ClearedBody {
    cleared: u64,
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct Part {
    /// Default: 50.
    #[param(minimum = 1, maximum = 200)]
    #[serde(default)]
    limit: Option<usize>,
    /// Only entries with smaller ids.
    #[serde(default)]
    before: Option<u64>,
}

impl EntryBody {
    fn new(id: u64, entry: Entry) -> Self {
        Self {
            id,
            timestamp: entry.timestamp,
            media_type: entry.media_type,
            bytes: entry.bytes,
            image_url: format!("/api/history/{id}/image"),
            thumbnail_url: format!("/api/history/{id}/thumbnail"),
            generation_time: entry.generation_time,
            formatted_prompt: entry.formatted_prompt,
            parameters: entry.parameters,
        }
    }
}

/// The image history, newest first.
#[utoipa::path(get, path = "/api/history", tag = "history", params(Part), responses((status = 200, body = HistoryBody), Problems))]
pub(crate) async fn list(
    State(state): Shared,
    part: Result<Query<Part>, QueryRejection>,
) -> Result<Json<HistoryBody>, Problem> {
    let Query(part) = part.map_err(|error| Fault::BadRequest(error.body_text()))?;
    let limit = part.limit.unwrap_or(DEFAULT_LIMIT);
    if !(1..=MAX_LIMIT).contains(&limit) {
        let why = format!("limit {limit} is out of range; use 1 to {MAX_LIMIT}");
        return Err(Fault::BadRequest(why).into());
    }
    let Page { entries, total } = history(&state)?.page(limit, part.before).await?;
    let entries = entries.into_iter().map(|(id, entry)| EntryBody::new(id, entry)).collect();
    Ok(Json(HistoryBody { history: entries, total }))
}

/// Deletes the whole history.
#[utoipa::path(delete, path = "/api/history", tag = "history", responses((status = 200, body = ClearedBody), Problems))]
pub(crate) async fn clear(State(state): Shared) -> Result<Json<ClearedBody>, Problem> {
    Ok(Json(ClearedBody { cleared: history(&state)?.clear().await? }))
}

/// The parameters of an image.
#[utoipa::path(
    get, path = "/api/history/{id}", tag = "history", params(("id" = u64, Path)),
    responses((status = 200, body = EntryBody), Problems)
)]
pub(crate) async fn get(
    State(state): Shared,
    Path(id): Path<String>,
) -> Result<Json<EntryBody>, Problem> {
    let id = number(&id)?;
    let entry = history(&state)?.entry(id).await?.ok_or_else(|| missing(id))?;
    Ok(Json(EntryBody::new(id, entry)))
}

/// Deletes an image from the history.
#[utoipa::path(
    delete, path = "/api/history/{id}", tag = "history", params(("id" = u64, Path)),
    responses((status = 200, body = DeletedBody), Problems)
)]
pub(crate) async fn delete(
    State(state): Shared,
    Path(id): Path<String>,
) -> Result<Json<DeletedBody>, Problem> {
    let id = number(&id)?;
    let remaining = history(&state)?.delete(id).await?.ok_or_else(|| missing(id))?;
    Ok(Json(DeletedBody { deleted: id, remaining }))
}

/// The file of an image.
#[utoipa::path(
    get, path = "/api/history/{id}/image", tag = "history", params(("id" = u64, Path)),
    responses(
        (status = 200, description = "The image", content(
            ([u8] = "image/png"), ([u8] = "image/jpeg"), ([u8] = "image/webp"),
        )),
        Problems,
    )
)]
pub(crate) async fn image(
    State(state): Shared,
    Path(id): Path<String>,
) -> Result<Response, Problem> {
    let id = number(&id)?;
    let picture = history(&state)?.picture(id).await?.ok_or_else(|| missing(id))?;
    Ok(unchanging(picture.file, &picture.media_type))
}

/// A thumbnail of an image.
#[utoipa::path(
    get, path = "/api/history/{id}/thumbnail", tag = "history", params(("id" = u64, Path)),
    responses((status = 200, description = "At most 256 x 256", body = [u8], content_type = "image/jpeg"), Problems)
)]
pub(crate) async fn thumbnail(
    State(state): Shared,
    Path(id): Path<String>,
) -> Result<Response, Problem> {
    let id = number(&id)?;
    let file = history(&state)?.thumbnail(id, &state.memory).await?.ok_or_else(|| missing(id))?;
    Ok(unchanging(file, "image/jpeg"))
}

fn history(state: &AppState) -> Result<&History, Fault> {
    state.history.as_deref().ok_or_else(|| {
        Fault::Unsupported("this gateway has no history; its log has the reason".to_owned())
    })
}

/// What an id stands for never changes, since none is used twice.
fn unchanging(file: bytes::Bytes, media_type: &str) -> Response {
    let media_type = HeaderValue::from_str(media_type)
        .unwrap_or(HeaderValue::from_static("application/octet-stream"));
    let cache = HeaderValue::from_static("private, max-age=31536000, immutable");
    ([(header::CONTENT_TYPE, media_type), (header::CACHE_CONTROL, cache)], file).into_response()
}

fn number(id: &str) -> Result<u64, Fault> {
    id.parse().map_err(|_| Fault::NotFound("no such image; ids are numbers".to_owned()))
}

fn missing(id: u64) -> Fault {
    Fault::NotFound(format!("there is no image {id} in the history"))
}
