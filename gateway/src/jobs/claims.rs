//! Claims jobs and has them run.

use std::sync::Arc;

use super::{
    job::{Accepted, Job},
    origin::Origin,
    run::{Start, run},
    worker::Worker,
};
use crate::records::job::JobId;

/// Runs every job that it can claim, each in a task of its own, until [`Worker::stop`] fires.
pub(super) async fn claim_jobs(worker: Arc<Worker>) {
    let mut previous = None;
    loop {
        let claim = tokio::select! {
            biased;
            () = worker.stop.cancelled() => return,
            claim = worker.store.queue.claim() => claim,
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
        worker.tasks.spawn(origin.scope(work));
    }
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
