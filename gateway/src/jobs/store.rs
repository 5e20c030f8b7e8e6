//! Where jobs are kept and where they wait: a queue, an index and a store of pictures.
//!
//! One process has all three in its database ([`crate::history`]) or in memory
//! ([`super::InMemoryJobStore`]). Several gateways can share them: a work queue with
//! acknowledgements, a key-value bucket with revisions, and an object store answer to the same
//! traits. What a method was given is stored when it has returned.

use std::{fmt, num::NonZeroUsize, sync::Arc, time::Duration};

use bytes::Bytes;
use futures::stream::BoxStream;
use llm_dit_fault::Fault;

use crate::{
    options::QueueRole,
    records::{
        job::{JobId, JobRecord},
        picture::Made,
        progress::Event,
    },
};

/// A claim that was not extended for three times as long may go to another worker.
const EXTEND_EVERY: Duration = Duration::from_secs(10);

/// The three parts.
#[derive(Clone, Debug)]
pub(crate) struct JobStore {
    pub queue: Arc<dyn JobQueue>,
    pub index: Arc<dyn JobIndex>,
    pub pictures: Arc<dyn PictureStore>,
    /// `None`: this process has the store for itself.
    pub sharing: Option<Sharing>,
}

/// How a process takes part in a store that it shares with others.
#[derive(Clone, Debug)]
pub(crate) struct Sharing {
    pub role: QueueRole,
    /// Jobs that it claims at a time.
    pub claims: NonZeroUsize,
    pub events: Arc<dyn JobEvents>,
}

/// What happens to jobs, told to every process. Not stored: one that misses an event goes on with
/// the next.
#[tonic::async_trait]
pub(crate) trait JobEvents: fmt::Debug + Send + Sync {
    /// Sends an event. `number` orders the events of a job, also those of different gateways.
    async fn tell(&self, job: JobId, number: u64, event: Event);
    /// The events of all jobs from now on, those of this process too.
    async fn follow(&self) -> Result<BoxStream<'static, (JobId, u64, Event)>, Fault>;
}

/// Jobs that wait for a worker, in the order in which they were published.
#[tonic::async_trait]
pub(crate) trait JobQueue: fmt::Debug + Send + Sync {
    /// Puts a job, whose record is in the index, behind those that wait.
    async fn publish(&self, job: JobId) -> Result<(), Fault>;
    /// The next job, as soon as there is one. No other worker gets it as long as the claim is
    /// extended.
    async fn claim(&self) -> Box<dyn Claim>;
    /// Takes back a job that was cancelled, if it still waits. One that stays is dropped by the
    /// worker that claims it.
    async fn withdraw(&self, _job: JobId) {}
}

/// A worker's right to a job.
#[tonic::async_trait]
pub(crate) trait Claim: Send {
    fn job(&self) -> JobId;
    /// The name that the record of the job gets when the work begins. A store that processes share
    /// refuses what comes from an earlier owner.
    fn owner(&self) -> Option<&str> {
        None
    }
    /// How often to call [`Claim::extend`].
    fn extend_every(&self) -> Duration {
        EXTEND_EVERY
    }
    /// Says that the job is still being worked at.
    async fn extend(&mut self) -> Result<(), Fault>;
    /// Stores the end of the job and its picture in one transaction, and drops the picture that it
    /// started from. Returns the record that stands from now on: this one with the picture's id in
    /// the history, or the end that was stored before it or the work of another owner, and then
    /// nothing is changed. `None` if the job was removed. May be called again after an error.
    async fn finish(
        &mut self,
        record: JobRecord,
        picture: Option<Made>,
    ) -> Result<Option<JobRecord>, Fault>;
    /// Gives the job, which is not over, to the next worker.
    async fn requeue(&mut self, record: JobRecord) -> Result<(), Fault>;
    /// Ends the claim of a job that is over or has another owner. Returns what is known of it.
    async fn abandon(&mut self) -> Result<Option<StoredJob>, Fault> {
        Ok(None)
    }
}

/// What is known of every job.
#[tonic::async_trait]
pub(crate) trait JobIndex: fmt::Debug + Send + Sync {
    /// Stores a record in place of revision `expected` of it, or as a new one.
    async fn put(&self, record: JobRecord, expected: Revision) -> Result<Revision, PutError>;
    async fn by_id(&self, id: JobId) -> Result<Option<StoredJob>, Fault>;
    /// The job that was created under this `Idempotency-Key`.
    async fn by_key(&self, key: &str) -> Result<Option<StoredJob>, Fault>;
    /// Forgets jobs that are over.
    async fn remove(&self, ids: Vec<JobId>) -> Result<(), Fault>;
    /// First all jobs that are known, oldest first, then [`Change::UpToDate`], then every change.
    async fn watch(&self) -> Result<BoxStream<'static, Change>, Fault>;
}

/// One picture a job: until the job is over the one that it starts from, after that the one that
/// came of it.
#[tonic::async_trait]
pub(crate) trait PictureStore: fmt::Debug + Send + Sync {
    /// The picture that a job starts from. It is dropped again if no record of the job follows.
    async fn put(&self, job: JobId, picture: Bytes) -> Result<(), Fault>;
    async fn get(&self, job: JobId) -> Result<Option<Bytes>, Fault>;
}

/// Counts the changes of one record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Revision(pub u64);

/// A record as the index has it.
#[derive(Clone, Debug)]
pub(crate) struct StoredJob {
    pub record: JobRecord,
    pub revision: Revision,
}

/// What a watcher of the index hears.
#[derive(Clone, Debug)]
pub(crate) enum Change {
    Put(Box<StoredJob>),
    Removed(JobId),
    /// All jobs that were known when the watch began have been told.
    UpToDate,
}

/// Why a record was not stored.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PutError {
    /// The index has another revision, or its job or key already.
    #[error("the job has changed in the meantime")]
    Conflict,
    #[error(transparent)]
    Fault(#[from] Fault),
}

impl JobStore {
    /// One store for all three parts.
    pub fn of<S>(store: S) -> Self
    where
        S: JobQueue + JobIndex + PictureStore + Clone + 'static,
    {
        Self {
            queue: Arc::new(store.clone()),
            index: Arc::new(store.clone()),
            pictures: Arc::new(store),
            sharing: None,
        }
    }

    /// One store for all three parts that other processes use as well.
    pub fn shared<S>(store: S, role: QueueRole, claims: NonZeroUsize) -> Self
    where
        S: JobQueue + JobIndex + PictureStore + JobEvents + Clone + 'static,
    {
        let events = Arc::new(store.clone());
        Self { sharing: Some(Sharing { role, claims, events }), ..Self::of(store) }
    }
}

impl Revision {
    /// Of a record that is not stored yet.
    pub const NEW: Self = Self(0);

    /// The revision that follows this one.
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }
}
