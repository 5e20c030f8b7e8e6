//! `/api/jobs`: pictures in the background.

use std::sync::Arc;

use axum::{
    Json,
    extract::{Path, Request, State},
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse as _, Response},
};
use futures::{Stream, stream};
use llm_dit_proto::Fault;
use serde::Serialize;
use utoipa::ToSchema;
use uuid::Uuid;

use super::{
    Shared,
    answer::{self, ResultBody, SentEvent},
};
use crate::{
    body,
    gateway::Gateway,
    generation::Progress,
    jobs::{Job, Jobs, Outcome},
    problem::{Problem, Problems},
    request::GenerateBody,
};

/// A picture in the background.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct JobBody {
    id: String,
    status: Status,
    /// After RFC 3339.
    created: String,
    progress: Progress,
    /// When it is done.
    #[schema(required = true)]
    result: Option<ResultBody>,
    /// When it failed or was cancelled.
    #[schema(required = true)]
    error: Option<Problem>,
}

#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Status {
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
    fn of(job: &Job) -> Self {
        let outcome = job.outcome();
        let (status, result, error) = match outcome {
            None => (Status::Running, None, None),
            Some(Outcome::Cancelled) => (Status::Cancelled, None, Some(Problem::cancelled())),
            Some(Outcome::Failed(problem)) => (Status::Failed, None, Some(problem)),
            Some(Outcome::Done(made)) => {
                (Status::Done, Some(ResultBody::at(&made, image_url(job))), None)
            }
        };
        Self {
            id: job.id.to_string(),
            status,
            created: job.created.clone(),
            progress: job.progress(),
            result,
            error,
        }
    }
}

/// Begins a picture in the background.
#[utoipa::path(
    post, path = "/api/jobs", tag = "jobs", request_body = GenerateBody,
    responses((status = 202, description = "The job, which goes on by itself", body = JobBody), Problems)
)]
pub(crate) async fn create(State(gateway): Shared, request: Request) -> Result<Response, Problem> {
    let body: GenerateBody =
        body::json_with_picture(&gateway, request, GenerateBody::FIELDS).await?;
    let mut request = body.check(&gateway.templates)?;
    let admission = gateway.admit()?;
    gateway.check(&request).await?;
    request.previews = true;
    let job = Jobs::start(&gateway, request, admission);
    let location = [(header::LOCATION, format!("/api/jobs/{}", job.id))];
    Ok((StatusCode::ACCEPTED, location, Json(JobBody::of(&job))).into_response())
}

/// All jobs that are known.
#[utoipa::path(get, path = "/api/jobs", tag = "jobs", responses((status = 200, body = JobsBody), Problems))]
pub(crate) async fn list(State(gateway): Shared) -> Json<JobsBody> {
    Json(JobsBody { jobs: gateway.jobs.all().iter().map(|job| JobBody::of(job)).collect() })
}

/// One job.
#[utoipa::path(
    get, path = "/api/jobs/{id}", tag = "jobs", params(("id" = String, Path)),
    responses((status = 200, body = JobBody), Problems)
)]
pub(crate) async fn get(
    State(gateway): Shared,
    Path(id): Path<String>,
) -> Result<Json<JobBody>, Problem> {
    Ok(Json(JobBody::of(&*find(&gateway, &id)?)))
}

/// Cancels a job, or removes one that is over.
#[utoipa::path(
    delete, path = "/api/jobs/{id}", tag = "jobs", params(("id" = String, Path)),
    responses((status = 200, description = "The job as it is now", body = JobBody), Problems)
)]
pub(crate) async fn delete(
    State(gateway): Shared,
    Path(id): Path<String>,
) -> Result<Json<JobBody>, Problem> {
    let job = find(&gateway, &id)?;
    if job.outcome().is_some() {
        gateway.jobs.remove(job.id);
    } else {
        let mut changes = job.changes();
        job.cancel();
        // The work is dropped at once; this waits until that is written down.
        while job.outcome().is_none() && changes.changed().await.is_ok() {}
    }
    Ok(Json(JobBody::of(&job)))
}

/// The picture of a job that is done.
#[utoipa::path(
    get, path = "/api/jobs/{id}/image", tag = "jobs", params(("id" = String, Path)),
    responses(
        (status = 200, description = "The picture", content(
            ([u8] = "image/png"), ([u8] = "image/jpeg"), ([u8] = "image/webp"),
        )),
        Problems,
    )
)]
pub(crate) async fn image(
    State(gateway): Shared,
    Path(id): Path<String>,
) -> Result<Response, Problem> {
    match find(&gateway, &id)?.outcome() {
        Some(Outcome::Done(made)) => Ok(answer::file(&made)),
        Some(Outcome::Failed(problem)) => {
            let why = format!("the job failed: {}", problem.detail);
            Err(Problem::conflict(why))
        }
        Some(Outcome::Cancelled) => Err(Problem::conflict("the job was cancelled")),
        None => Err(Problem::conflict("the picture is not finished; /events tells when it is")),
    }
}

/// What happened so far and what happens next, as server-sent events.
#[utoipa::path(
    get, path = "/api/jobs/{id}/events", tag = "jobs",
    params(("id" = String, Path), ("Last-Event-ID" = Option<String>, Header, description = "Only later ones")),
    responses((status = 200, description = "Events", body = SentEvent, content_type = "text/event-stream"), Problems)
)]
pub(crate) async fn events(
    State(gateway): Shared,
    Path(id): Path<String>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let job = find(&gateway, &id)?;
    let last = headers.get("last-event-id").and_then(|id| id.to_str().ok()?.parse::<u64>().ok());
    let from = last.map_or(0, |last| last.saturating_add(1));
    Ok(answer::stream(follow(job, from)))
}

fn follow(
    job: Arc<Job>,
    from: u64,
) -> impl Stream<Item = axum::response::sse::Event> + Send + 'static {
    use futures::StreamExt as _;
    let changes = job.changes();
    let batches = stream::unfold(Some((job, from, changes)), async |state| {
        let (job, mut from, mut changes) = state?;
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
                    Outcome::Done(made) => Ok(ResultBody::at(&made, image_url(&job))),
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
                return Some((batch, Some((job, from, changes))));
            }
            changes.changed().await.ok()?;
        }
    });
    batches.map(stream::iter).flatten()
}

fn find(gateway: &Gateway, id: &str) -> Result<Arc<Job>, Problem> {
    let job = id.parse::<Uuid>().ok().and_then(|id| gateway.jobs.get(id));
    job.ok_or_else(|| {
        Fault::NotFound(
            "there is no such job; those from before a restart are forgotten".to_owned(),
        )
        .into()
    })
}

fn image_url(job: &Job) -> String {
    format!("/api/jobs/{}/image", job.id)
}
