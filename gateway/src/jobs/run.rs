//! A job's life, from its place in the queue to its end.

use std::{convert::Infallible, sync::Arc, time::Duration};

use llm_dit_fault::Fault;
use tokio::time;
use tokio_util::sync::CancellationToken;

use super::{
    finish::Finish,
    job::Job,
    store::{Claim, PutError},
    unstored::Room,
    worker::{FIRST_PAUSE, MAX_PAUSE, Worker},
};
use crate::{
    admission::Admission,
    error::Error,
    records::{
        job::{JobRecord, JobState},
        picture::Made,
        progress::Event,
        request::{Request, SourceImage, selections},
    },
};

/// Longest pause before a job asks busy services again.
const MAX_BUSY_PAUSE: Duration = Duration::from_secs(2);

/// How a job comes to run.
pub(super) enum Start {
    /// Accepted by this process: it has its place.
    Accepted(Box<Request>, Admission),
    /// Left by an earlier gateway: when the one before it has passed.
    After(Option<CancellationToken>),
    /// Its image could neither be stored nor kept: when there is room for so many bytes.
    Again(usize),
}

/// Why the work ended.
enum End {
    Done(Box<Made>),
    Failed(Error),
    Cancelled,
    /// The gateway ends first; the next one does it again.
    Requeued,
    /// The index has another end of it, or another worker's claim.
    Superseded,
    /// Services of this worker fail; another worker may have others.
    Yielded,
}

/// What becomes of a job; returns when that is stored, or the gateway ends.
pub(super) async fn run(
    worker: Arc<Worker>,
    mut claim: Box<dyn Claim>,
    job: Arc<Job>,
    start: Start,
) {
    let mut next = Some(start);
    let owner = claim.owner().map(str::to_owned);
    let lost = job.hold(owner.as_deref());
    // For the image, once there was none for it.
    let mut room = None;
    while let Some(start) = next.take() {
        let mut admission = None;
        let end = {
            // Dropping the work is what stops it.
            let work = work(&worker, &job, owner.as_deref(), start, &mut admission, &mut room);
            tokio::select! {
                biased;
                () = job.cancel.cancelled() => End::Cancelled,
                () = lost.cancelled() => End::Superseded,
                () = worker.stop.cancelled() => End::Requeued,
                end = work => end,
                never = keep(&mut *claim) => match never {},
            }
        };
        job.passed.cancel();
        let (state, made) = match end {
            End::Done(made) => (JobState::Done(Box::new(made.about.clone())), Some(*made)),
            End::Failed(error) => (JobState::Failed(error.into()), None),
            End::Cancelled => (JobState::Cancelled, None),
            End::Requeued => {
                requeue(&mut *claim, &job).await;
                break;
            }
            End::Yielded => {
                let record = job.change(|record| record.state = JobState::Queued);
                store_requeued(&mut *claim, record).await;
                break;
            }
            End::Superseded => {
                tracing::warn!("another gateway ended or took over a job");
                match claim.abandon().await {
                    Ok(current) => current.into_iter().for_each(|current| job.replace(current)),
                    Err(fault) => tracing::warn!(%fault, "failed to read what became of a job"),
                }
                break;
            }
        };
        let finish = Finish { worker: &worker, claim: &mut *claim, job: &job };
        next = finish.store(state, made, admission, room.take()).await.map(Start::Again);
    }
    job.release(owner.as_deref());
    worker.forget().await;
}

/// Extends a claim for as long as its job is worked at.
async fn keep(claim: &mut dyn Claim) -> Infallible {
    loop {
        time::sleep(claim.extend_every()).await;
        if let Err(fault) = claim.extend().await {
            tracing::warn!(%fault, "failed to extend the claim of a job");
        }
    }
}

async fn work(
    worker: &Worker,
    job: &Job,
    owner: Option<&str>,
    start: Start,
    admission: &mut Option<Admission>,
    room: &mut Option<Room>,
) -> End {
    let mut request = match start {
        Start::Accepted(request, place) => {
            *admission = Some(place);
            *request
        }
        start @ (Start::After(_) | Start::Again(_)) => {
            let turn = async {
                match start {
                    Start::After(Some(previous)) => previous.cancelled().await,
                    Start::Again(bytes) => *room = worker.unstored.take(bytes).await,
                    Start::After(None) | Start::Accepted(..) => {}
                }
                worker.admissions.wait().await
            };
            let turn = worker.admissions.draining().run_until_cancelled(turn).await;
            let Some(place) = turn.flatten() else { return End::Requeued };
            *admission = Some(place);
            if let Some(error) = worn_out(worker, job) {
                return End::Failed(error);
            }
            match restored(worker, job).await {
                Ok(Some(request)) => request,
                Ok(None) => return End::Requeued,
                Err(error) => return End::Failed(error),
            }
        }
    };
    // After each crash it is for this job to say how it goes on.
    request.max_crashes = 1;
    let mut pause = FIRST_PAUSE;
    loop {
        let suspect = match job.record().crashes {
            0 => None,
            _ => Some(worker.suspects.lock().await),
        };
        let Some(record) = job.begin(owner) else { return End::Superseded };
        let attempts = record.attempts;
        loop {
            match worker.store.index.put(record.clone(), job.revision()).await {
                Ok(revision) => job.stored(revision),
                Err(PutError::Conflict) => return End::Superseded,
                Err(PutError::Fault(fault)) => {
                    tracing::warn!(%fault, "failed to store the start of a job");
                    // Other workers must know whose it is. Otherwise it has at worst an attempt more
                    // than it is said to have.
                    if owner.is_some() {
                        if rest(worker, FIRST_PAUSE).await {
                            continue;
                        }
                        return End::Requeued;
                    }
                }
            }
            break;
        }
        let error = match patiently(worker, job, &request).await {
            None => return End::Requeued,
            Some(Ok(made)) => return End::Done(Box::new(made)),
            Some(Err(error)) => error,
        };
        drop(suspect);
        if let Error::Crashed(message) = &error {
            let record = job.change(|record| record.crashes += 1);
            if record.crashes >= worker.limits.crashes {
                return End::Failed(Error::crashes(record.crashes, message));
            }
            // Kept before it is tried again, which may be the end of this process too.
            match worker.store.index.put(record, job.revision()).await {
                Ok(revision) => job.stored(revision),
                Err(PutError::Conflict) => return End::Superseded,
                Err(PutError::Fault(fault)) => {
                    tracing::warn!(%fault, "failed to store that a job crashed a service");
                }
            }
        }
        if !is_away(&error) || attempts >= worker.limits.attempts {
            return End::Failed(error);
        }
        if owner.is_some() {
            let pause = FIRST_PAUSE * 2u32.saturating_pow(attempts.saturating_sub(1).min(6));
            tracing::warn!(%error, attempts, "leaving a job to another worker");
            return if rest(worker, pause.min(MAX_PAUSE)).await {
                End::Yielded
            } else {
                End::Requeued
            };
        }
        tracing::warn!(%error, attempts, seconds = pause.as_secs_f64(), "retrying a job");
        job.change(|record| record.state = JobState::Queued);
        job.passed.cancel();
        if !rest(worker, pause).await {
            return End::Requeued;
        }
        pause = (pause * 2).min(MAX_PAUSE);
    }
}

/// A job waits for its place where a client would be told to try again. `None`: the gateway ends.
async fn patiently(worker: &Worker, job: &Job, request: &Request) -> Option<Result<Made, Error>> {
    let report = |event: Event| worker.report(job, event);
    loop {
        match worker.maker.make(request, Some(&report)).await {
            Err(Error::Fault(Fault::Busy { retry_after, message })) => {
                tracing::debug!(message, "a job waits for capacity");
                if !rest(worker, retry_after.min(MAX_BUSY_PAUSE)).await {
                    return None;
                }
            }
            result => return Some(result),
        }
    }
}

/// False when there is no use in waiting, since the gateway ends.
async fn rest(worker: &Worker, pause: Duration) -> bool {
    worker.admissions.draining().run_until_cancelled(time::sleep(pause)).await.is_some()
}

/// Whether it is a service that failed, and not the request.
fn is_away(error: &Error) -> bool {
    matches!(error, Error::Lost(_) | Error::Crashed(_) | Error::Fault(Fault::Unavailable(_)))
}

/// Why a job is not begun again: every attempt that it may have was interrupted, perhaps because it
/// ends the process that makes its image.
fn worn_out(worker: &Worker, job: &Job) -> Option<Error> {
    let JobRecord { attempts, .. } = job.record();
    (attempts >= worker.limits.attempts).then(|| {
        Error::Lost(format!(
            "the gateway ended unexpectedly in the last of {attempts} attempts at this job; send it again if the job was not the cause"
        ))
    })
}

/// The request of a job that an earlier gateway accepted, once there is memory for it. `None`: the
/// gateway ends.
async fn restored(worker: &Worker, job: &Job) -> Result<Option<Request>, Error> {
    let source = loop {
        let Some(file) = worker.store.pictures.get(job.id).await? else { break None };
        match worker.maker.memory.reserve("the init image", file.len() as u64) {
            Ok(memory) => break Some(SourceImage::from_stored(memory.hold(file))?),
            Err(Fault::Busy { retry_after, .. }) => {
                drop(file);
                if !rest(worker, retry_after.min(MAX_BUSY_PAUSE)).await {
                    return Ok(None);
                }
            }
            Err(fault) => return Err(fault.into()),
        }
    };
    let JobRecord { request: mut body, loras, .. } = job.record();
    // A default set may be one that no request could name.
    let named = loras.as_ref().and_then(|_| body.loras.take());
    let mut request = body.check_with(&worker.templates, source)?;
    if let Some(loras) = loras {
        request.loras = Some(selections(&loras)?);
        request.body.loras = named;
    }
    request.previews = true;
    Ok(Some(request))
}

async fn requeue(claim: &mut dyn Claim, job: &Job) {
    store_requeued(claim, job.change(JobRecord::requeue)).await;
}

async fn store_requeued(claim: &mut dyn Claim, record: JobRecord) {
    if let Err(fault) = claim.requeue(record).await {
        tracing::warn!(%fault, "failed to requeue a job in the store; retrying it anyway");
    }
}
