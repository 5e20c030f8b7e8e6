//! Claims jobs and has them run.

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time,
};

use super::{
    job::{Accepted, Job},
    origin::Origin,
    run::{Start, run},
    worker::Worker,
};
use crate::records::job::JobId;

/// Before a worker without services looks for them again.
const LOOK_AGAIN: Duration = Duration::from_millis(500);

/// Runs every job that it can claim, each in a task of its own, until [`Worker::stop`] fires.
pub(super) async fn claim_jobs(worker: Arc<Worker>) {
    let mut previous = None;
    let claims = worker.store.sharing.as_ref().map(|sharing| sharing.claims.get());
    let claims = claims.map(|claims| Arc::new(Semaphore::new(claims)));
    loop {
        let next = async {
            let permit = match &claims {
                Some(claims) => Some(permit(&worker, claims).await),
                None => None,
            };
            (permit, worker.store.queue.claim().await)
        };
        let (permit, claim) = tokio::select! {
            biased;
            () = worker.stop.cancelled() => return,
            next = next => next,
        };
        let Some(job) = find(&worker, claim.job()).await else { continue };
        let (start, origin) = match job.take_accepted() {
            Some(accepted) => {
                let Accepted { request, admission, origin } = accepted;
                (Start::Accepted(Box::new(request), admission), origin)
            }
            // It is queued, and stays so for the next gateway.
            None if worker.admissions.is_draining() => continue,
            None => {
                let start = Start::After(previous.replace(job.passed.clone()));
                (start, Origin::of(job.id))
            }
        };
        let work = run(Arc::clone(&worker), claim, job, start);
        let work = async move {
            work.await;
            drop(permit);
        };
        worker.tasks.spawn(origin.scope(work));
    }
}

/// A place for a job that other processes could claim as well: when there is one, this process has a
/// service for it, and is not about to end.
async fn permit(worker: &Worker, claims: &Arc<Semaphore>) -> Option<OwnedSemaphorePermit> {
    // Fails only when the semaphore is closed, which it never is.
    let permit = Arc::clone(claims).acquire_owned().await.ok();
    while worker.admissions.is_draining() || !worker.maker.has_service() {
        time::sleep(LOOK_AGAIN).await;
    }
    permit
}

/// The job to run under an id; `None` if it was removed or is over.
async fn find(worker: &Worker, id: JobId) -> Option<Arc<Job>> {
    let job = match worker.store.index.by_id(id).await {
        Ok(stored) => stored.map(|stored| worker.list.catch_up(stored)),
        Err(fault) => {
            tracing::warn!(%id, %fault, "failed to read the record of a claimed job");
            worker.list.get(id)
        }
    };
    job.filter(|job| !job.is_over())
}
