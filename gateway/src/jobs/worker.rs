//! Claims jobs and has them run.

use std::sync::Arc;

use jiff::Timestamp;
use llm_dit_templates::Library;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    job::{Accepted, Job},
    list::JobList,
    origin::Origin,
    run::{Start, run},
    store::JobStore,
};
use crate::{admission::Admissions, maker::Maker, options::JobLimits, records::job::JobId};

/// What it takes to run jobs.
#[derive(Debug)]
pub(super) struct Worker {
    pub list: Arc<JobList>,
    pub store: JobStore,
    pub maker: Arc<Maker>,
    pub templates: Arc<Library>,
    pub admissions: Arc<Admissions>,
    pub limits: JobLimits,
    /// Ends what is left of the work.
    pub stop: CancellationToken,
    pub tasks: TaskTracker,
}

impl Worker {
    /// Runs every job that it can claim, each in a task of its own, until [`Worker::stop`] fires.
    pub async fn work(self: Arc<Self>) {
        let mut previous = None;
        loop {
            let claim = tokio::select! {
                biased;
                () = self.stop.cancelled() => return,
                claim = self.store.queue.claim() => claim,
            };
            let Some(job) = self.find(claim.job()).await else { continue };
            let (start, origin) = match job.take_accepted() {
                Some(accepted) => {
                    let Accepted { request, admission, origin } = accepted;
                    (Start::Accepted(Box::new(request), admission), origin)
                }
                // It is queued, and stays so for the next gateway.
                None if self.admissions.is_draining() => continue,
                None => {
                    let start = Start::After(previous.replace(job.passed.clone()));
                    (start, Origin::of(job.id))
                }
            };
            let work = run(Arc::clone(&self), claim, job, start);
            self.tasks.spawn(origin.scope(work));
        }
    }

    /// The job to run under an id; `None` if it was removed or is over.
    async fn find(&self, id: JobId) -> Option<Arc<Job>> {
        let job = match self.store.index.by_id(id).await {
            Ok(stored) => stored.map(|stored| self.list.catch_up(stored)),
            Err(fault) => {
                tracing::warn!(%id, %fault, "failed to read the record of a claimed job");
                self.list.get(id)
            }
        };
        job.filter(|job| !job.is_over())
    }

    /// Forgets the oldest finished jobs beyond the limits.
    pub async fn forget(&self) {
        let expired = self.list.take_expired(self.limits, Timestamp::now());
        if expired.is_empty() {
            return;
        }
        // They come back with the next gateway, which tries as well.
        if let Err(fault) = self.store.index.remove(expired).await {
            tracing::warn!(%fault, "failed to remove old jobs from the store");
        }
    }
}
