//! All jobs that are known to this process: a mirror of the index, in the order of acceptance.

use std::{collections::VecDeque, sync::Arc, time::Instant};

use jiff::{SignedDuration, Timestamp};
use parking_lot::Mutex;

use super::{
    job::Job,
    store::{Change, StoredJob},
};
use crate::{
    options::JobLimits,
    records::job::{JobId, JobState},
};

/// Bytes of pictures of finished jobs that are only in memory.
pub(super) const MAX_MEMORY_BYTES: usize = 256 * 1024 * 1024;

#[derive(Debug, Default)]
pub(super) struct JobList {
    jobs: Mutex<VecDeque<Arc<Job>>>,
    /// Whether other processes may run them.
    shared: bool,
}

impl JobList {
    /// An empty list. `shared`: other processes may run its jobs.
    pub fn new(shared: bool) -> Self {
        Self { jobs: Mutex::default(), shared }
    }

    /// Adds a job, unless it is known already. Returns the one that is known from now on.
    pub fn add(&self, job: Job) -> Arc<Job> {
        let mut list = self.jobs.lock();
        if let Some(known) = list.iter().rev().find(|known| known.id == job.id) {
            return Arc::clone(known);
        }
        let job = Arc::new(job);
        list.push_back(Arc::clone(&job));
        job
    }

    /// The job of this id.
    pub fn get(&self, id: JobId) -> Option<Arc<Job>> {
        self.jobs.lock().iter().find(|job| job.id == id).cloned()
    }

    /// Newest first.
    pub fn all(&self) -> Vec<Arc<Job>> {
        self.jobs.lock().iter().rev().cloned().collect()
    }

    /// Removes a job; one that is unknown is ignored.
    pub fn remove(&self, id: JobId) {
        self.jobs.lock().retain(|job| job.id != id);
    }

    /// Takes over what the index says, if it is newer.
    pub fn catch_up(&self, stored: StoredJob) -> Arc<Job> {
        let job = match self.shared {
            true => Job::mirrored(stored.clone()),
            false => Job::new(stored.record.clone()),
        };
        let job = self.add(job);
        job.catch_up(stored);
        job
    }

    /// Applies a change that the index reports.
    pub fn apply(&self, change: Change) {
        match change {
            Change::Put(stored) => drop(self.catch_up(*stored)),
            Change::Removed(id) => self.remove(id),
            Change::UpToDate => {}
        }
    }

    /// When the job was accepted that waits longest.
    pub fn oldest_waiting(&self) -> Option<Timestamp> {
        let list = self.jobs.lock();
        let waiting = list.iter().map(|job| job.record());
        let waiting = waiting.filter(|record| matches!(record.state, JobState::Queued));
        waiting.filter_map(|record| record.created.parse().ok()).min()
    }

    /// How many there are, by state.
    pub fn count(&self) -> [(&'static str, usize); 5] {
        let mut counts = JobState::NAMES.map(|name| (name, 0));
        for job in self.jobs.lock().iter() {
            let state = job.record().state.name();
            counts.iter_mut().filter(|(name, _)| *name == state).for_each(|(_, count)| *count += 1);
        }
        counts
    }

    /// Takes the oldest finished jobs beyond the limits out of the list, and returns their ids. A clock
    /// that is set forward (`now`) makes no job of this process older than it is (`at`).
    pub fn take_expired(&self, limits: JobLimits, now: Timestamp, at: Instant) -> Vec<JobId> {
        let JobLimits { max, days, .. } = limits;
        let age =
            SignedDuration::from_hours(24).saturating_mul(days.try_into().unwrap_or(i32::MAX));
        let oldest = now.checked_sub(age).unwrap_or(Timestamp::MIN);
        let is_old = |job: &Job| job.record().ended_before(oldest) && job.is_older(age, at);
        let mut list = self.jobs.lock();
        let (mut count, mut bytes) = (0, 0);
        let mut expired = Vec::new();
        for job in list.iter().rev().filter(|job| job.is_over()) {
            count += 1;
            bytes += job.bytes_in_memory();
            // The newest stays, however large it is.
            let fits = count == 1 || count <= max && bytes <= MAX_MEMORY_BYTES;
            // A job whose end is not stored is still at work.
            if job.unstored().is_none() && (!fits || is_old(job)) {
                expired.push(job.id);
            }
        }
        list.retain(|job| !expired.contains(&job.id));
        expired
    }
}
