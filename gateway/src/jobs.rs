//! Pictures that are made in the background.
//!
//! A job is a task with a log of events. Whoever looks reads the log from the beginning and then
//! waits for more, so nobody can come too late. What it takes to run a job again is stored before
//! the client hears that it was accepted, and its end is stored with its picture, in one change: a
//! gateway that is killed at any moment leaves jobs that are over or jobs that the next one runs,
//! and never two pictures of one ([why](../../docs/decisions/0012-durable-jobs.md)).

mod job;
mod run;
mod store;

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use jiff::{SignedDuration, Timestamp};
use llm_dit_fault::Fault;
use llm_dit_telemetry::request_id::{self, RequestId};
use parking_lot::Mutex;
use tokio::time;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::Instrument as _;
use uuid::Uuid;

use self::run::{Start, run};
pub(crate) use self::{
    job::{Job, Outcome},
    store::{Forgetful, JobStore},
};
use crate::{
    gateway::{Admission, Gateway},
    options::JobLimits,
    records::job::{Key, Record, State},
    records::problem::Problem,
    records::request::{Request, lora_bodies},
};

/// Bytes of pictures that are only in memory.
const MAX_OVER_BYTES: usize = 256 * 1024 * 1024;
/// What storing may take when the grace period is over.
const LAST_WORDS: Duration = Duration::from_secs(5);

/// All jobs that are known, oldest first.
#[derive(Debug)]
pub(crate) struct Jobs {
    list: Mutex<VecDeque<Arc<Job>>>,
    store: Arc<dyn JobStore>,
    limits: JobLimits,
    next_number: AtomicU64,
    /// One is accepted at a time, so that two with the same key cannot both be.
    accepting: tokio::sync::Mutex<()>,
    /// Ends what is left of the work.
    stop: CancellationToken,
    tasks: TaskTracker,
}

impl Jobs {
    pub fn new(store: Arc<dyn JobStore>, limits: JobLimits) -> Self {
        Self {
            list: Mutex::default(),
            store,
            limits,
            next_number: AtomicU64::new(1),
            accepting: tokio::sync::Mutex::default(),
            stop: CancellationToken::new(),
            tasks: TaskTracker::new(),
        }
    }

    /// Takes over what an earlier gateway left, and runs again, in order, what it did not finish.
    pub async fn recover(gateway: &Arc<Gateway>) -> Result<(), Fault> {
        let jobs = &gateway.jobs;
        let mut records = jobs.store.load().await?;
        records.sort_by_key(|record| record.number);
        let next = records.last().map_or(1, |record| record.number + 1);
        jobs.next_number.store(next, Ordering::Relaxed);
        let all: Vec<_> = records.into_iter().map(|r| Arc::new(Job::restored(r))).collect();
        jobs.list.lock().extend(all.iter().cloned());
        let unfinished: Vec<_> = all.into_iter().filter(|job| !job.is_over()).collect();
        if !unfinished.is_empty() {
            tracing::info!(jobs = unfinished.len(), "resuming unfinished jobs of an earlier run");
        }
        let mut previous = None;
        for job in unfinished {
            let passed = job.passed.clone();
            Self::spawn(gateway, job, Start::After(previous.replace(passed)));
        }
        jobs.forget().await;
        Ok(())
    }

    /// Stores a job and begins it; or finds the one that has its key already, and says true. Goes on
    /// when the caller leaves.
    pub async fn accept(
        gateway: &Arc<Gateway>,
        request: Request,
        key: Option<Key>,
        admission: Admission,
    ) -> Result<(Arc<Job>, bool), Problem> {
        let gateway = Arc::clone(gateway);
        let accept = async move {
            let jobs = &gateway.jobs;
            let _one = jobs.accepting.lock().await;
            if let Some(known) = key.as_ref().and_then(|key| jobs.with_key(key).transpose()) {
                return Ok((known?, true));
            }
            let number = jobs.next_number.fetch_add(1, Ordering::Relaxed);
            let mut record = Record::new(number, request.body.clone(), key);
            record.loras = request.loras.as_ref().map(lora_bodies);
            let source = request.image.as_ref().map(|image| image.file().clone());
            jobs.store.accept(record.clone(), source).await?;
            let job = Arc::new(Job::new(record));
            jobs.list.lock().push_back(Arc::clone(&job));
            Self::spawn(&gateway, Arc::clone(&job), Start::Now(Box::new(request), admission));
            Ok((job, false))
        };
        let accepted = tokio::spawn(request_id::keep(accept).in_current_span()).await;
        accepted.unwrap_or_else(|error| {
            Err(Fault::Internal(format!("accepting a job failed: {error}")).into())
        })
    }

    pub fn get(&self, id: Uuid) -> Option<Arc<Job>> {
        self.list.lock().iter().find(|job| job.id == id).cloned()
    }

    /// The job of this key; an error if it is of another request.
    pub fn with_key(&self, key: &Key) -> Result<Option<Arc<Job>>, Problem> {
        let list = self.list.lock();
        let known = list.iter().rev().find_map(|job| Some((job, job.has_key(&key.text)?)));
        match known {
            None => Ok(None),
            Some((job, known)) if known == *key => Ok(Some(Arc::clone(job))),
            Some((job, _)) => Err(Problem::unprocessable(format!(
                "the Idempotency-Key was used for another request, job {}; use a new key for each",
                job.id
            ))),
        }
    }

    /// How many there are, by state.
    pub fn count(&self) -> [(&'static str, usize); 5] {
        let mut counts = State::NAMES.map(|name| (name, 0));
        for job in self.list.lock().iter() {
            let state = job.record().state.name();
            counts.iter_mut().filter(|(name, _)| *name == state).for_each(|(_, count)| *count += 1);
        }
        counts
    }

    /// Newest first.
    pub fn all(&self) -> Vec<Arc<Job>> {
        self.list.lock().iter().rev().cloned().collect()
    }

    /// Forgets a job that is over.
    pub async fn remove(&self, job: &Job) -> Result<(), Fault> {
        self.store.remove(vec![job.number]).await?;
        self.list.lock().retain(|known| known.number != job.number);
        Ok(())
    }

    /// Leaves to the next gateway what is not over.
    pub async fn put_back(&self) {
        self.stop.cancel();
        self.tasks.close();
        if time::timeout(LAST_WORDS, self.tasks.wait()).await.is_err() {
            tracing::warn!(
                "failed to store the state of some jobs; they will run again after a restart"
            );
        }
    }

    fn spawn(gateway: &Arc<Gateway>, job: Arc<Job>, start: Start) {
        // That of who created it. Nobody knows it any more after a restart.
        let request = RequestId::current().unwrap_or_else(|| job.id.into());
        let span = tracing::info_span!("job", id = %job.id, request_id = request.as_str());
        let work = run(Arc::clone(gateway), job, start);
        gateway.jobs.tasks.spawn(request.scope(work).instrument(span));
    }

    /// Forgets the oldest that are over, beyond what may be kept.
    async fn forget(&self) {
        let old = self.too_old(Timestamp::now());
        if old.is_empty() {
            return;
        }
        // They come back with the next gateway, which tries as well.
        if let Err(fault) = self.store.remove(old).await {
            tracing::warn!(%fault, "failed to remove old jobs from the store");
        }
    }

    /// Takes the numbers of those out of the list.
    fn too_old(&self, now: Timestamp) -> Vec<u64> {
        let JobLimits { max, days, .. } = self.limits;
        let age =
            SignedDuration::from_hours(24).saturating_mul(days.try_into().unwrap_or(i32::MAX));
        let oldest = now.checked_sub(age).unwrap_or(Timestamp::MIN);
        let mut list = self.list.lock();
        let (mut count, mut bytes) = (0, 0);
        let mut old = Vec::new();
        for job in list.iter().rev().filter(|job| job.is_over()) {
            count += 1;
            bytes += job.file().map_or(0, |file| file.len());
            // The newest stays, however large it is.
            let fits = count == 1 || count <= max && bytes <= MAX_OVER_BYTES;
            // One whose end is not stored is still at work.
            if job.unstored().is_none() && (!fits || job.record().ended_before(oldest)) {
                old.push(job.number);
            }
        }
        list.retain(|job| !old.contains(&job.number));
        old
    }
}

#[cfg(test)]
mod tests;
