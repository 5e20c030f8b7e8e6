//! `/api/history`: pictures that were generated before.

use axum::{
    Extension, Json,
    extract::{Path, Query, State},
    http::{HeaderValue, header},
    response::{IntoResponse as _, Response},
};
use llm_dit_fault::Fault;
use llm_dit_params::excerpt;
use serde::Serialize;
use utoipa::{IntoParams, ToSchema};

use super::{Shared, answer, problem::Problems};
use crate::{
    forwarded::Place,
    history::{Entry, History, Page},
    records::problem::Problem,
    records::request::GenerateBody,
    state::AppState,
};

const DEFAULT_LIMIT: u64 = 50;
const MAX_LIMIT: u64 = 200;

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
    /// Why the file does not hold its parameters, if it does not.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    parameters_omitted: Option<String>,
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

#[derive(Debug, Default, IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct Part {
    /// Default: 50.
    #[param(minimum = 1, maximum = 200)]
    limit: Option<u64>,
    /// Only entries with smaller ids.
    before: Option<u64>,
}

impl Part {
    /// Of a query string, whose mistakes are told by name.
    fn read(query: &[(String, String)]) -> Result<Self, Fault> {
        let mut part = Self::default();
        for (name, value) in query {
            let place = match name.as_str() {
                "limit" => &mut part.limit,
                "before" => &mut part.before,
                _ => {
                    let name = excerpt(name);
                    return Err(Fault::BadRequest(format!(
                        "unknown query parameter '{name}'; known are limit and before"
                    )));
                }
            };
            let number = value.parse().map_err(|_| {
                let value = excerpt(value);
                Fault::BadRequest(format!("{name}: '{value}' is not a whole number from 0 up"))
            })?;
            if place.replace(number).is_some() {
                return Err(Fault::BadRequest(format!("{name} comes twice; give it once")));
            }
        }
        Ok(part)
    }
}

impl EntryBody {
    fn new(id: u64, entry: Entry, place: &Place) -> Self {
        Self {
            id,
            timestamp: entry.timestamp,
            media_type: entry.media_type,
            bytes: entry.bytes,
            image_url: place.path(&image_path(id)),
            thumbnail_url: place.path(&format!("/api/history/{id}/thumbnail")),
            generation_time: entry.generation_time,
            formatted_prompt: entry.formatted_prompt,
            parameters: entry.parameters,
            parameters_omitted: entry.parameters_omitted,
        }
    }
}

/// The image history, newest first.
#[utoipa::path(get, path = "/api/history", tag = "history", params(Part), responses((status = 200, body = HistoryBody), Problems))]
pub(crate) async fn list(
    State(state): Shared,
    Extension(place): Extension<Place>,
    Query(query): Query<Vec<(String, String)>>,
) -> Result<Json<HistoryBody>, Problem> {
    let part = Part::read(&query)?;
    let limit = part.limit.unwrap_or(DEFAULT_LIMIT);
    if !(1..=MAX_LIMIT).contains(&limit) {
        let why = format!("limit {limit} is out of range; use 1 to {MAX_LIMIT}");
        return Err(Fault::BadRequest(why).into());
    }
    let Page { entries, total } = history(&state)?.page(limit as usize, part.before).await?;
    let entries =
        entries.into_iter().map(|(id, entry)| EntryBody::new(id, entry, &place)).collect();
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
    Extension(place): Extension<Place>,
    Path(id): Path<String>,
) -> Result<Json<EntryBody>, Problem> {
    let id = number(&id)?;
    let entry = history(&state)?.entry(id).await?.ok_or_else(|| missing(id))?;
    Ok(Json(EntryBody::new(id, entry, &place)))
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
    let mut response = unchanging(picture.file, &picture.media_type);
    answer::omitted(response.headers_mut(), picture.parameters_omitted.as_deref());
    Ok(response)
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

fn history(state: &AppState) -> Result<&dyn History, Fault> {
    state.history.as_deref().ok_or_else(|| {
        Fault::Unsupported("this gateway has no history; its log has the reason".to_owned())
    })
}

/// Where an image of the history is.
pub(crate) fn image_path(id: u64) -> String {
    format!("/api/history/{id}/image")
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
