//! `POST /api/generate`: generates a picture and waits for it.

use std::sync::Arc;

use axum::{
    Json,
    extract::{Request, State},
    response::{IntoResponse as _, Response},
};
use futures::StreamExt as _;
use llm_dit_telemetry::request_id;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::task::AbortOnDropHandle;
use tracing::Instrument as _;

use super::{
    Shared,
    answer::{self, Accepts, ResultBody, SentEvent},
    problem::Problems,
};
use crate::{
    admission::Admission,
    api::body,
    error::Error,
    history::Entry,
    records::{
        picture::Made,
        problem::Problem,
        progress::{Event, Report},
        request::{self, GenerateBody},
    },
    state::AppState,
};

/// Events that a slow reader may be behind; more of them are left out.
const EVENTS_IN_FLIGHT: usize = 32;

/// Something on the way to a picture, or its end.
pub(crate) enum Live {
    Event(Event),
    End(Box<Result<Made, Error>>),
}

/// Generates an image.
///
/// `Accept` selects the response: the file, JSON with the file in base64, or server-sent events
/// (`progress`, `preview`, and finally `result` or `error`).
#[utoipa::path(
    post, path = "/api/generate", tag = "pictures", request_body = GenerateBody,
    responses(
        (status = 200, description = "The image", content(
            ([u8] = "image/png"), ([u8] = "image/jpeg"), ([u8] = "image/webp"),
            (ResultBody = "application/json"), (SentEvent = "text/event-stream"),
        )),
        Problems,
    )
)]
pub(crate) async fn generate(State(state): Shared, request: Request) -> Result<Response, Problem> {
    let accepts = Accepts::of(request.headers());
    let deadline = state.patience.of(request.headers())?;
    let (body, memory): (GenerateBody, _) =
        body::json_with_picture(&state, request, GenerateBody::FIELDS).await?;
    let mut request = body.check(&state.templates)?;
    request.hold(memory);
    request.deadline = deadline;
    let admission = state.admissions.admit()?;
    if accepts == Accepts::Events {
        // So that what is wrong still has a status of its own.
        state.maker.check(&request).await?;
        request.previews = true;
        let events = live(state, request, admission).map(|live| match live {
            Live::Event(event) => answer::event(&event),
            Live::End(result) => {
                let result = result.map(|made| ResultBody::whole(&made));
                answer::last(result.map_err(Problem::from))
            }
        });
        return Ok(answer::stream(events));
    }
    let made = make(&state, &request, None).await?;
    Ok(match accepts {
        Accepts::Json => Json(ResultBody::whole(&made)).into_response(),
        Accepts::File | Accepts::Events => answer::file(&made.about, made.file),
    })
}

/// Makes a picture, and keeps it in the history.
pub(crate) async fn make(
    state: &AppState,
    request: &request::Request,
    report: Report<'_>,
) -> Result<Made, Error> {
    let mut made = state.maker.make(request, report).await?;
    if let Some(history) = &state.history {
        made.about.history_id = history.add(Entry::of(&made), made.file.clone()).await;
    }
    Ok(made)
}

/// A picture with all that happens on the way. Dropping the stream stops the work.
pub(crate) fn live(
    state: Arc<AppState>,
    request: request::Request,
    admission: Admission,
) -> impl futures::Stream<Item = Live> + Send + 'static {
    let (send, events) = mpsc::channel(EVENTS_IN_FLIGHT);
    let work = async move {
        let _admission = admission;
        let report = |event| {
            // A reader that is far behind gets the next one.
            let _ = send.try_send(Live::Event(event));
        };
        let result = make(&state, &request, Some(&report)).await;
        let _ = send.send(Live::End(Box::new(result))).await;
    };
    let work = tokio::spawn(request_id::keep(work).in_current_span());
    let work = AbortOnDropHandle::new(work);
    ReceiverStream::new(events).map(move |live| {
        // The stream owns the work.
        let _ = &work;
        live
    })
}
