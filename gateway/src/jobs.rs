//! Pictures that are made in the background.
//!
//! A job is a record in the index, a place in the queue and, in this process, a log of events.
//! A reader gets the log from the beginning and then waits for more, so it can never come too late.
//! What it takes to run a job again is stored before the client hears that it was accepted,
//! and its end is stored with its picture, in one transaction: a gateway that is killed at any
//! moment leaves jobs that are over or jobs that the next one runs, and never two pictures of one
//! ([why](../../docs/decisions/0012-durable-jobs.md)).

mod claims;
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
    store::{Change, JobStore, PutError, Revision},
    unstored::Unstored,
    worker::Worker,
};
pub(crate) use self::{
    job::{Job, Outcome},
    line::Line,
    memory::InMemoryJobStore,
};
use crate::{
    admission::{Admission, Admissions},
    maker::Maker,
    options::JobLimits,
    records::{
        job::{IdempotencyKey, JobId, JobRecord},
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
        let list = Arc::new(JobList::default());
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
            self.list.add(Job::restored(*stored));
        }
        let unfinished = self.list.all().iter().filter(|job| !job.is_over()).count();
        if unfinished > 0 {
            tracing::info!(jobs = unfinished, "resuming unfinished jobs of an earlier run");
        }
        let list = Arc::clone(&self.list);
        let follow = changes.for_each(move |change| {
            list.apply(change);
            std::future::ready(())
        });
        let Worker { stop, tasks, .. } = &*self.worker;
        tasks.spawn(stop.clone().run_until_cancelled_owned(follow));
        tasks.spawn(claim_jobs(Arc::clone(&self.worker)));
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
                let retry_after = Duration::from_secs(1);
                let message = "another request with this Idempotency-Key is being accepted";
                return Err(Fault::Busy { message: message.to_owned(), retry_after }.into());
            }
        };
        let job = self.list.add(Job::new(record));
        job.stored(revision);
        job.accept(Accepted { request, admission, origin: Origin::of(job.id) });
        if let Err(fault) = self.store.queue.publish(job.id).await {
            self.list.remove(job.id);
            return Err(fault.into());
        }
        Ok((job, false))
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
