//! Pictures that are made in the background.
//!
//! A job is a record in the index, a place in the queue and, in this process, a log of events.
//! A reader gets the log from the beginning and then waits for more, so it can never come too late.
//! What it takes to run a job again is stored before the client hears that it was accepted,
//! and its end is stored with its picture, in one transaction: a gateway that is killed at any
//! moment leaves jobs that are over or jobs that the next one runs, and never two pictures of one
//! ([why](../../docs/decisions/0012-durable-jobs.md)).

mod claims;
#[cfg(test)]
pub(crate) mod contract;
mod finish;
mod job;
mod keys;
mod line;
mod list;
mod memory;
mod origin;
mod run;
pub(crate) mod store;
mod unstored;
mod worker;

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use futures::StreamExt as _;
use jiff::Timestamp;
use llm_dit_fault::Fault;
use llm_dit_telemetry::request_id;
use llm_dit_templates::Library;
use tokio::time;
use tokio_util::{
    sync::{CancellationToken, DropGuard},
    task::TaskTracker,
};
use tracing::Instrument as _;

use self::{
    claims::claim_jobs,
    job::Accepted,
    keys::{KeyTurn, KeyTurns},
    list::JobList,
    origin::Origin,
    store::{Change, JobStore, PutError, Revision, Sharing, StoredJob},
    unstored::Unstored,
    worker::{Worker, tell_others},
};
pub(crate) use self::{
    job::{Job, Outcome},
    line::Line,
    memory::InMemoryJobStore,
};
use crate::{
    admission::{Admission, Admissions},
    maker::Maker,
    meters,
    options::{JobLimits, QueueRole},
    records::{
        job::{IdempotencyKey, JobId, JobRecord, JobState},
        problem::Problem,
        request::{Request, lora_bodies},
    },
};

/// What storing may take when the grace period is over.
const LAST_WORDS: Duration = Duration::from_secs(5);

/// The jobs of this gateway.
#[derive(Debug)]
pub(crate) struct Jobs {
    list: Arc<JobList>,
    store: JobStore,
    worker: Arc<Worker>,
    /// One job is accepted at a time: its picture is stored before its record, and of two with the
    /// same key none may be left behind.
    accepting: tokio::sync::Mutex<()>,
    turns: KeyTurns,
    _stop: DropGuard,
}

impl Jobs {
    /// Jobs in `store`. None is run before [`Self::start`].
    pub fn new(
        store: JobStore,
        limits: JobLimits,
        maker: Arc<Maker>,
        templates: Arc<Library>,
        admissions: Arc<Admissions>,
    ) -> Self {
        let list = Arc::new(JobList::new(store.sharing.is_some()));
        let told = store.sharing.as_ref().map(|sharing| tell_others(Arc::clone(&sharing.events)));
        let stop = CancellationToken::new();
        let worker = Worker {
            list: Arc::clone(&list),
            store: store.clone(),
            maker,
            templates,
            admissions,
            limits,
            unstored: Unstored::new(limits.unstored_bytes),
            suspects: tokio::sync::Mutex::default(),
            told,
            stop: stop.clone(),
            tasks: TaskTracker::new(),
        };
        Self {
            list,
            store,
            worker: Arc::new(worker),
            accepting: tokio::sync::Mutex::default(),
            turns: KeyTurns::default(),
            _stop: stop.drop_guard(),
        }
    }

    /// Loads the jobs that an earlier gateway left, and starts the worker.
    ///
    /// # Errors
    ///
    /// [`Fault`] if the store fails.
    pub async fn start(&self) -> Result<(), Fault> {
        let mut changes = self.store.index.watch().await?;
        while let Some(Change::Put(stored)) = changes.next().await {
            self.list.add(match self.store.sharing {
                Some(_) => Job::mirrored(*stored),
                None => Job::restored(*stored),
            });
        }
        let unfinished = self.list.all().iter().filter(|job| !job.is_over()).count();
        if unfinished > 0 {
            tracing::info!(jobs = unfinished, "there are unfinished jobs of an earlier run");
        }
        let list = Arc::clone(&self.list);
        let follow = changes.for_each(move |change| {
            list.apply(change);
            std::future::ready(())
        });
        let Worker { stop, tasks, .. } = &*self.worker;
        tasks.spawn(stop.clone().run_until_cancelled_owned(follow));
        if let Some(Sharing { events, .. }) = &self.store.sharing {
            let list = Arc::clone(&self.list);
            let follow = events.follow().await?.for_each(move |(job, number, event)| {
                if let Some(job) = list.get(job) {
                    job.heard(number, event);
                }
                std::future::ready(())
            });
            tasks.spawn(stop.clone().run_until_cancelled_owned(follow));
        }
        if self.store.sharing.as_ref().is_none_or(|sharing| sharing.role != QueueRole::Front) {
            tasks.spawn(claim_jobs(Arc::clone(&self.worker)));
        }
        self.worker.forget().await;
        Ok(())
    }

    /// Stores a job and queues it; or finds the one that has its key already, and says true. Goes on
    /// when the caller leaves.
    ///
    /// # Errors
    ///
    /// 422 if the key belongs to another request, 503 if the job cannot be stored.
    pub async fn accept(
        self: &Arc<Self>,
        request: Request,
        key: Option<IdempotencyKey>,
        admission: Admission,
    ) -> Result<(Arc<Job>, bool), Problem> {
        let jobs = Arc::clone(self);
        let accept = async move { jobs.store_and_queue(request, key, admission).await };
        let accepted = tokio::spawn(request_id::keep(accept).in_current_span()).await;
        accepted.unwrap_or_else(|error| {
            Err(Fault::Internal(format!("accepting a job failed: {error}")).into())
        })
    }

    async fn store_and_queue(
        &self,
        request: Request,
        key: Option<IdempotencyKey>,
        admission: Admission,
    ) -> Result<(Arc<Job>, bool), Problem> {
        if self.store.sharing.as_ref().is_some_and(|sharing| sharing.role == QueueRole::Worker) {
            return Err(Fault::Unsupported(
                "this gateway only runs jobs of the shared queue (--queue-role worker); send the job to a front".to_owned(),
            )
            .into());
        }
        let _one = self.accepting.lock().await;
        if let Some(key) = &key
            && let Some(known) = self.with_key(key).await?
        {
            return Ok((known, true));
        }
        let mut record = JobRecord::new(request.body.clone(), key);
        record.loras = request.loras.as_ref().map(lora_bodies);
        if let Some(image) = &request.image {
            self.store.pictures.put(record.id, image.to_stored(&self.worker.maker.memory)?).await?;
        }
        let revision = match self.store.index.put(record.clone(), Revision::NEW).await {
            Ok(revision) => revision,
            Err(PutError::Fault(fault)) => return Err(fault.into()),
            // Another gateway has stored the key since we looked.
            Err(PutError::Conflict) => {
                if let Some(key) = &record.key
                    && let Some(known) = self.with_key(key).await?
                {
                    return Ok((known, true));
                }
                let retry_after = Duration::from_secs(1);
                let message = "another request with this Idempotency-Key is being accepted";
                return Err(Fault::Busy { message: message.to_owned(), retry_after }.into());
            }
        };
        let job = match self.store.sharing {
            // Whichever worker claims it finds all that it needs in the store.
            Some(_) => self.list.catch_up(StoredJob { record, revision }),
            None => {
                let job = self.list.add(Job::new(record));
                job.stored(revision);
                job.accept(Accepted { request, admission, origin: Origin::of(job.id) });
                job
            }
        };
        if let Err(fault) = self.store.queue.publish(job.id).await {
            // Otherwise the store could find it later, and run what was refused.
            let removed = self.store.index.remove(vec![job.id]).await;
            self.list.remove(job.id);
            return Err(match removed {
                Ok(()) => fault,
                Err(_) => Fault::Unavailable(format!(
                    "{fault}; it is not known whether job {} was accepted",
                    job.id
                )),
            }
            .into());
        }
        Ok((job, false))
    }

    /// Cancels a job that is not over. Returns when that is stored, or cannot be.
    ///
    /// # Errors
    ///
    /// [`Fault`] if the store fails.
    pub async fn cancel(&self, job: &Job) -> Result<(), Fault> {
        if self.store.sharing.is_none() {
            let mut changes = job.changes();
            job.cancel();
            // The work is dropped at once; this waits until that is written down.
            while !job.is_over() && changes.changed().await.is_ok() {}
            return Ok(());
        }
        // The gateway that runs it stops when it sees this end.
        loop {
            let Some(stored) = self.store.index.by_id(job.id).await? else { return Ok(()) };
            if stored.record.is_over() {
                job.catch_up(stored);
                return Ok(());
            }
            let mut record = stored.record;
            record.end(JobState::Cancelled);
            match self.store.index.put(record.clone(), stored.revision).await {
                Ok(revision) => {
                    meters::job_ended(record.state.name());
                    job.catch_up(StoredJob { record, revision });
                    self.store.queue.withdraw(job.id).await;
                    return Ok(());
                }
                Err(PutError::Conflict) => {}
                Err(PutError::Fault(fault)) => return Err(fault),
            }
        }
    }

    /// How long the job has waited that waits longest.
    pub fn oldest_waiting(&self) -> Duration {
        let since = self.list.oldest_waiting();
        let waited = since.map(|since| Timestamp::now().duration_since(since));
        waited.and_then(|waited| waited.try_into().ok()).unwrap_or_default()
    }

    /// The job of this id.
    pub fn get(&self, id: JobId) -> Option<Arc<Job>> {
        self.list.get(id)
    }

    /// Waits while another request with this key is being accepted. To be held until this one is.
    pub async fn turn(&self, key: &IdempotencyKey) -> KeyTurn<'_> {
        self.turns.take(&key.text).await
    }

    /// The job of this key.
    ///
    /// # Errors
    ///
    /// 422 if it is a job of another request.
    pub async fn with_key(&self, key: &IdempotencyKey) -> Result<Option<Arc<Job>>, Problem> {
        let Some(stored) = self.store.index.by_key(&key.text).await? else { return Ok(None) };
        if stored.record.key.as_ref() != Some(key) {
            return Err(Problem::unprocessable(format!(
                "the Idempotency-Key was used for another request, job {}; use a new key for each",
                stored.record.id
            )));
        }
        Ok(Some(self.list.catch_up(stored)))
    }

    /// How many there are, by state.
    pub fn count(&self) -> [(&'static str, usize); 5] {
        self.list.count()
    }

    /// Newest first.
    pub fn all(&self) -> Vec<Arc<Job>> {
        self.list.all()
    }

    /// How many jobs are over without that being stored, and why it is not; `None` if all are.
    pub fn unstored(&self) -> Option<(usize, Fault)> {
        let faults = self.list.all().into_iter().filter_map(|job| job.unstored());
        let faults: Vec<Fault> = faults.collect();
        faults.first().map(|fault| (faults.len(), fault.clone()))
    }

    /// The picture of a job that is done; `None` if it was removed from the history.
    ///
    /// # Errors
    ///
    /// [`Fault`] if the store fails.
    pub async fn picture(&self, job: &Job) -> Result<Option<Bytes>, Fault> {
        match job.file() {
            Some(file) => Ok(Some(file)),
            None => self.store.pictures.get(job.id).await,
        }
    }

    /// Removes a job that is over.
    ///
    /// # Errors
    ///
    /// [`Fault`] if the store fails.
    pub async fn remove(&self, job: &Job) -> Result<(), Fault> {
        self.store.index.remove(vec![job.id]).await?;
        self.list.remove(job.id);
        Ok(())
    }

    /// Leaves to the next gateway what is not over.
    pub async fn requeue_unfinished(&self) {
        let Worker { stop, tasks, .. } = &*self.worker;
        stop.cancel();
        tasks.close();
        if time::timeout(LAST_WORDS, tasks.wait()).await.is_err() {
            tracing::warn!(
                "failed to store the state of some jobs; they will run again after a restart"
            );
        }
    }
}

#[cfg(test)]
mod tests;
