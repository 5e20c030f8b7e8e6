//! The parts that run jobs.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use jiff::Timestamp;
use llm_dit_templates::Library;
use tokio::sync::{Mutex, mpsc};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    job::Job,
    list::JobList,
    store::{JobEvents, JobStore},
    unstored::Unstored,
};
use crate::{
    admission::Admissions,
    maker::Maker,
    options::JobLimits,
    records::{job::JobId, progress::Event},
};

/// Events that may wait to be told to other processes; further ones are left out.
const EVENTS_IN_FLIGHT: usize = 256;

/// Pauses after a service or the disk has failed grow from the one to the other.
pub(super) const FIRST_PAUSE: Duration = Duration::from_millis(500);
pub(super) const MAX_PAUSE: Duration = Duration::from_secs(30);

/// The parts that every job of this process runs with.
#[derive(Debug)]
pub(super) struct Worker {
    pub list: Arc<JobList>,
    pub store: JobStore,
    pub maker: Arc<Maker>,
    pub templates: Arc<Library>,
    pub admissions: Arc<Admissions>,
    pub limits: JobLimits,
    pub unstored: Unstored,
    /// Held by a job that has crashed a service, while it runs again: jobs that a service ran
    /// together are found out one by one.
    pub suspects: Mutex<()>,
    /// Events for the processes that share the store.
    pub told: Option<mpsc::Sender<(JobId, u64, Event)>>,
    /// Ends what is left of the work.
    pub stop: CancellationToken,
    pub tasks: TaskTracker,
}

/// A channel to `events`: reporting an event does not wait until it is sent.
pub(super) fn tell_others(events: Arc<dyn JobEvents>) -> mpsc::Sender<(JobId, u64, Event)> {
    let (told, mut waiting) = mpsc::channel(EVENTS_IN_FLIGHT);
    tokio::spawn(async move {
        while let Some((job, number, event)) = waiting.recv().await {
            events.tell(job, number, event).await;
        }
    });
    told
}

impl Worker {
    /// Logs an event, and tells it to the processes that share the store.
    pub fn report(&self, job: &Job, event: Event) {
        let Some(told) = &self.told else {
            job.tell(event);
            return;
        };
        if let Some(number) = job.tell(event.clone()) {
            let _ = told.try_send((job.id, number, event));
        }
    }

    /// Forgets the oldest finished jobs beyond the limits.
    pub async fn forget(&self) {
        let expired = self.list.take_expired(self.limits, Timestamp::now(), Instant::now());
        if expired.is_empty() {
            return;
        }
        // They come back with the next gateway, which tries as well.
        if let Err(fault) = self.store.index.remove(expired).await {
            tracing::warn!(%fault, "failed to remove old jobs from the store");
        }
    }
}
