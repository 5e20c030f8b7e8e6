//! `/api/jobs`: pictures in the background.

use std::sync::Arc;

use axum::{
    Extension, Json,
    extract::{Path, Request, State},
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header},
    response::{IntoResponse as _, Response},
};
use futures::{Stream, stream};
use llm_dit_fault::Fault;
use serde::Serialize;
use tokio::sync::watch;
use utoipa::ToSchema;
use uuid::Uuid;

use super::{
    Shared,
    answer::{self, ResultBody, SentEvent},
    problem::Problems,
};
use crate::{
    api::body,
    forwarded::Place,
    jobs::{Job, Outcome},
    records::{
        job::{IdempotencyKey, JobState},
        problem::Problem,
        progress::Progress,
        request::GenerateBody,
    },
    state::AppState,
};

const MAX_KEY_BYTES: usize = 255;

/// A picture in the background.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct JobBody {
    id: String,
    status: Status,
    /// Times are RFC 3339.
    created: String,
    /// Time of the last attempt.
    #[schema(required = true)]
    started: Option<String>,
    #[schema(required = true)]
    ended: Option<String>,
    /// Number of attempts.
    attempts: u32,
    progress: Progress,
    /// Set if the job is done.
    #[schema(required = true)]
    result: Option<ResultBody>,
    /// Set if the job failed or was cancelled.
    #[schema(required = true)]
    error: Option<Problem>,
}

#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Status {
    /// Waiting for its turn, or for unavailable services.
    Queued,
    Running,
    Done,
    Failed,
    Cancelled,
}

#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct JobsBody {
    /// Newest first.
    jobs: Vec<JobBody>,
}

impl JobBody {
    fn of(job: &Job, place: &Place) -> Self {
        let record = job.record();
        let (status, result, error) = match record.state {
            JobState::Queued => (Status::Queued, None, None),
            JobState::Running => (Status::Running, None, None),
            JobState::Cancelled => (Status::Cancelled, None, Some(Problem::cancelled())),
            JobState::Failed(problem) => (Status::Failed, None, Some(problem)),
            JobState::Done(about) => {
                (Status::Done, Some(ResultBody::at(&about, image_url(job, place))), None)
            }
        };
        Self {
            id: job.id.to_string(),
            status,
            created: record.created,
            started: record.started,
            ended: record.ended,
            attempts: record.attempts,
            progress: job.progress(),
            result,
            error,
        }
    }
}

/// Starts a background job that generates an image.
///
/// The response is sent when the job is stored. A client that missed it can repeat the request with
/// the same `Idempotency-Key` and gets the same job.
#[utoipa::path(
    post, path = "/api/jobs", tag = "jobs", request_body = GenerateBody,
    params(("Idempotency-Key" = Option<String>, Header, description = "Key chosen by the client for this request")),
    responses((status = 202, description = "The accepted job", body = JobBody), Problems)
)]
pub(crate) async fn create(
    State(state): Shared,
    Extension(place): Extension<Place>,
    request: Request,
) -> Result<Response, Problem> {
    let key = key(request.headers())?;
    let (body, memory): (GenerateBody, _) =
        body::json_with_picture(&state, request, GenerateBody::FIELDS).await?;
    let key = key.map(|text| IdempotencyKey::new(text, &body));
    // A request that is sent again needs no place, even if the first one takes the last.
    let _turn = match &key {
        Some(key) => Some(state.jobs.turn(key).await),
        None => None,
    };
    if let Some(key) = &key
        && let Some(known) = state.jobs.with_key(key).await?
    {
        return Ok(accepted(&known, true, &place));
    }
    let mut request = body.check(&state.templates)?;
    request.hold(memory);
    let admission = state.admissions.admit()?;
    let params = state.maker.check(&request).await?;
    // With every value that was left open, it makes the same picture whenever it is run.
    request.body = request.used(&params);
    request.loras = params.loras;
    request.previews = true;
    let (job, again) = state.jobs.accept(request, key, admission).await?;
    Ok(accepted(&job, again, &place))
}

/// `again`: it had been accepted before, under the same key.
fn accepted(job: &Job, again: bool, place: &Place) -> Response {
    let location = [(header::LOCATION, place.path(&format!("/api/jobs/{}", job.id)))];
    let body = Json(JobBody::of(job, place));
    let mut response = (StatusCode::ACCEPTED, location, body).into_response();
    if again {
        let replayed = HeaderName::from_static("idempotent-replayed");
        response.headers_mut().insert(replayed, HeaderValue::from_static("true"));
    }
    response
}

/// What a client calls its request.
fn key(headers: &HeaderMap) -> Result<Option<String>, Problem> {
    let Some(value) = headers.get("idempotency-key") else { return Ok(None) };
    match value.to_str() {
        Ok(text) if (1..=MAX_KEY_BYTES).contains(&text.len()) => Ok(Some(text.to_owned())),
        _ => Err(Fault::BadRequest(format!(
            "Idempotency-Key must be 1 to {MAX_KEY_BYTES} visible ASCII characters, such as a UUID"
        ))
        .into()),
    }
}

/// All remembered jobs.
#[utoipa::path(get, path = "/api/jobs", tag = "jobs", responses((status = 200, body = JobsBody), Problems))]
pub(crate) async fn list(
    State(state): Shared,
    Extension(place): Extension<Place>,
) -> Json<JobsBody> {
    let jobs = state.jobs.all();
    Json(JobsBody { jobs: jobs.iter().map(|job| JobBody::of(job, &place)).collect() })
}

/// One job.
#[utoipa::path(
    get, path = "/api/jobs/{id}", tag = "jobs", params(("id" = String, Path)),
    responses((status = 200, body = JobBody), Problems)
)]
pub(crate) async fn get(
    State(state): Shared,
    Extension(place): Extension<Place>,
    Path(id): Path<String>,
) -> Result<Json<JobBody>, Problem> {
    Ok(Json(JobBody::of(&*find(&state, &id)?, &place)))
}

/// Cancels a job, or removes a finished one.
#[utoipa::path(
    delete, path = "/api/jobs/{id}", tag = "jobs", params(("id" = String, Path)),
    responses((status = 200, description = "The current state of the job", body = JobBody), Problems)
)]
pub(crate) async fn delete(
    State(state): Shared,
    Extension(place): Extension<Place>,
    Path(id): Path<String>,
) -> Result<Json<JobBody>, Problem> {
    let job = find(&state, &id)?;
    if job.is_over() {
        state.jobs.remove(&job).await?;
    } else {
        state.jobs.cancel(&job).await?;
        if let Some(fault) = job.unstored() {
            let why = format!(
                "the job was stopped, but this could not be stored, so it would run again after a restart of the gateway: {fault}"
            );
            return Err(Fault::Unavailable(why).into());
        }
    }
    Ok(Json(JobBody::of(&job, &place)))
}

/// The image of a finished job.
#[utoipa::path(
    get, path = "/api/jobs/{id}/image", tag = "jobs", params(("id" = String, Path)),
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
    let job = find(&state, &id)?;
    match job.outcome() {
        Some(Outcome::Done(about)) => match state.jobs.picture(&job).await? {
            Some(file) => Ok(answer::file(&about, file)),
            None => Err(Problem::gone(
                "the image was removed from the history; a request with the job's parameters generates it again",
            )),
        },
        Some(Outcome::Failed(problem)) => {
            let why = format!("the job failed: {}", problem.detail);
            Err(Problem::conflict(why))
        }
        Some(Outcome::Cancelled) => Err(Problem::conflict("the job was cancelled")),
        None => Err(Problem::conflict("the image is not finished; /events reports when it is")),
    }
}

/// The past and future events of a job, as server-sent events.
#[utoipa::path(
    get, path = "/api/jobs/{id}/events", tag = "jobs",
    params(("id" = String, Path), ("Last-Event-ID" = Option<String>, Header, description = "Only later events are sent")),
    responses((status = 200, description = "Events", body = SentEvent, content_type = "text/event-stream"), Problems)
)]
pub(crate) async fn events(
    State(state): Shared,
    Path(id): Path<String>,
    Extension(place): Extension<Place>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let job = find(&state, &id)?;
    let last = headers.get("last-event-id").and_then(|id| id.to_str().ok()?.parse::<u64>().ok());
    let from = last.map_or(0, |last| last.saturating_add(1));
    let changes = job.watch()?;
    Ok(answer::stream(follow(job, from, changes, place)))
}

fn follow(
    job: Arc<Job>,
    from: u64,
    changes: watch::Receiver<u64>,
    place: Place,
) -> impl Stream<Item = axum::response::sse::Event> + Send + 'static {
    use futures::StreamExt as _;
    let batches = stream::unfold(Some((job, from, changes, place)), async |state| {
        let (job, mut from, mut changes, place) = state?;
        loop {
            // Seen as of now; what comes later wakes us again.
            changes.borrow_and_update();
            let news = job.news(from);
            let mut batch: Vec<_> = news
                .events
                .iter()
                .map(|(number, event)| answer::event(event).id(number.to_string()))
                .collect();
            if let Some((number, outcome)) = news.outcome {
                if number < from {
                    return None;
                }
                let result = match outcome {
                    Outcome::Done(about) => Ok(ResultBody::at(&about, image_url(&job, &place))),
                    Outcome::Failed(problem) => Err(problem),
                    Outcome::Cancelled => Err(Problem::cancelled()),
                };
                batch.push(answer::last(result).id(number.to_string()));
                return Some((batch, None));
            }
            if let Some((number, _)) = news.events.last() {
                from = number + 1;
            }
            if !batch.is_empty() {
                return Some((batch, Some((job, from, changes, place))));
            }
            changes.changed().await.ok()?;
        }
    });
    batches.map(stream::iter).flatten()
}

fn find(state: &AppState, id: &str) -> Result<Arc<Job>, Problem> {
    let job = id.parse::<Uuid>().ok().and_then(|id| state.jobs.get(id));
    job.ok_or_else(|| {
        let why = if state.history.is_some() {
            "there is no such job; old finished jobs are forgotten"
        } else {
            "there is no such job; without a history, a restart forgets all jobs"
        };
        Fault::NotFound(why.to_owned()).into()
    })
}

fn image_url(job: &Job, place: &Place) -> String {
    place.path(&format!("/api/jobs/{}/image", job.id))
}
