//! A job's life, from its place in the line to its end.

use std::{sync::Arc, time::Duration};

use llm_dit_fault::Fault;
use tokio::time;
use tokio_util::sync::CancellationToken;

use super::Job;
use crate::{
    error::Error,
    gateway::{Admission, Gateway},
    generation::{Event, Made},
    meters,
    records::{
        job::{Record, State},
        request::{Request, SourceImage, selections},
    },
};

/// Longest pause before a job asks busy services again.
const MAX_BUSY_PAUSE: Duration = Duration::from_secs(2);
/// Pauses after services were lost grow from the one to the other.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const MAX_PAUSE: Duration = Duration::from_secs(30);

/// How a job comes to run.
pub(super) enum Start {
    Now(Box<Request>, Admission),
    /// Left by an earlier gateway: when the one before it has passed.
    After(Option<CancellationToken>),
}

/// Why the work ended.
enum End {
    Done(Box<Made>),
    Failed(Error),
    Cancelled,
    /// The gateway ends first; the next one does it again.
    PutBack,
}

/// What becomes of a job; returns when that is stored, or the gateway ends.
pub(super) async fn run(gateway: Arc<Gateway>, job: Arc<Job>, start: Start) {
    let mut admission = None;
    let end = {
        // Dropping the work is what stops it.
        let work = work(&gateway, &job, start, &mut admission);
        tokio::select! {
            biased;
            () = job.cancel.cancelled() => End::Cancelled,
            () = gateway.jobs.stop.cancelled() => End::PutBack,
            end = work => end,
        }
    };
    job.passed.cancel();
    match end {
        End::PutBack => put_back(&gateway, &job).await,
        End::Done(made) => {
            finish(&gateway, &job, State::Done(Box::new(made.about.clone())), Some(*made)).await
        }
        End::Failed(error) => finish(&gateway, &job, State::Failed(error.into()), None).await,
        End::Cancelled => finish(&gateway, &job, State::Cancelled, None).await,
    }
    drop(admission);
    gateway.jobs.forget().await;
}

async fn work(
    gateway: &Gateway,
    job: &Job,
    start: Start,
    admission: &mut Option<Admission>,
) -> End {
    let request = match start {
        Start::Now(request, place) => {
            *admission = Some(place);
            *request
        }
        Start::After(previous) => {
            let turn = async {
                if let Some(previous) = previous {
                    previous.cancelled().await;
                }
                gateway.place().await
            };
            let place = tokio::select! {
                biased;
                () = gateway.draining.cancelled() => None,
                place = turn => place,
            };
            let Some(place) = place else { return End::PutBack };
            *admission = Some(place);
            match restored(gateway, job).await {
                Ok(request) => request,
                Err(error) => return End::Failed(error),
            }
        }
    };
    let mut pause = FIRST_PAUSE;
    loop {
        let record = job.change(Record::begin);
        let attempts = record.attempts;
        if let Err(fault) = gateway.jobs.store.note(record).await {
            // At worst it has an attempt more than it is said to have.
            tracing::warn!(%fault, "failed to store the start of a job");
        }
        let error = match patiently(gateway, job, &request).await {
            None => return End::PutBack,
            Some(Ok(made)) => return End::Done(Box::new(made)),
            Some(Err(error)) => error,
        };
        if !is_away(&error) || attempts >= gateway.jobs.limits.attempts {
            return End::Failed(error);
        }
        tracing::warn!(%error, attempts, seconds = pause.as_secs_f64(), "retrying a job");
        job.change(|record| record.state = State::Queued);
        job.passed.cancel();
        if !rest(gateway, pause).await {
            return End::PutBack;
        }
        pause = (pause * 2).min(MAX_PAUSE);
    }
}

/// A job waits for its place where a client would be told to try again. `None`: the gateway ends.
async fn patiently(gateway: &Gateway, job: &Job, request: &Request) -> Option<Result<Made, Error>> {
    let report = |event: Event| job.tell(event);
    loop {
        match gateway.make_only(request, Some(&report)).await {
            Err(Error::Fault(Fault::Busy { retry_after, message })) => {
                tracing::debug!(message, "a job waits for capacity");
                if !rest(gateway, retry_after.min(MAX_BUSY_PAUSE)).await {
                    return None;
                }
            }
            result => return Some(result),
        }
    }
}

/// False when there is no use in waiting, since the gateway ends.
async fn rest(gateway: &Gateway, pause: Duration) -> bool {
    tokio::select! {
        () = gateway.draining.cancelled() => false,
        () = time::sleep(pause) => true,
    }
}

/// Whether it is a service that failed, and not the request.
fn is_away(error: &Error) -> bool {
    matches!(error, Error::Lost(_) | Error::Fault(Fault::Unavailable(_)))
}

/// The request of a job that an earlier gateway accepted.
async fn restored(gateway: &Gateway, job: &Job) -> Result<Request, Error> {
    let source = gateway.jobs.store.source(job.number).await?;
    let Record { request: mut body, loras, .. } = job.record();
    let source = source.map(SourceImage::from_file).transpose()?;
    // A default set may be one that no request could name.
    let named = loras.as_ref().and_then(|_| body.loras.take());
    let mut request = body.check_with(&gateway.templates, source)?;
    if let Some(loras) = loras {
        request.loras = Some(selections(&loras)?);
        request.body.loras = named;
    }
    request.previews = true;
    Ok(request)
}

async fn put_back(gateway: &Gateway, job: &Job) {
    let record = job.change(|record| {
        if matches!(record.state, State::Running) {
            // It was no fault of the job's.
            record.attempts = record.attempts.saturating_sub(1);
        }
        record.state = State::Queued;
    });
    if let Err(fault) = gateway.jobs.store.note(record).await {
        tracing::warn!(%fault, "failed to requeue a job in the store; retrying it anyway");
    }
}

/// Stores the end before anybody hears of it. When that cannot be, they hear of it all the same, and
/// it is tried again until it is stored: until then a restart would run the job once more.
async fn finish(gateway: &Gateway, job: &Job, state: State, made: Option<Made>) {
    meters::job_ended(state.name());
    let mut record = job.record();
    record.end(state);
    let mut pause = FIRST_PAUSE;
    loop {
        let file = made.as_ref().map(|made| made.file.clone());
        match gateway.jobs.store.end(record.clone(), made.clone()).await {
            Ok(history_id) => {
                if let State::Done(about) = &mut record.state {
                    about.history_id = history_id;
                }
                return job.end(record, file.filter(|_| history_id.is_none()), None);
            }
            Err(fault) => {
                tracing::error!(%fault, "failed to store the end of a job");
                job.end(record.clone(), file, Some(fault));
            }
        }
        tokio::select! {
            () = gateway.jobs.stop.cancelled() => return,
            () = time::sleep(pause) => {}
        }
        pause = (pause * 2).min(MAX_PAUSE);
    }
}
