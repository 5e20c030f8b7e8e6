//! Where jobs are kept and where they wait: a queue, an index and a store of pictures.
//!
//! One process has all three in its database ([`crate::history`]) or in memory
//! ([`super::InMemoryJobStore`]). Several gateways can share them: a work queue with
//! acknowledgements, a key-value bucket with revisions, and an object store answer to the same
//! traits. What a method was given is stored when it has returned.

use std::{fmt, sync::Arc, time::Duration};

use bytes::Bytes;
use futures::stream::BoxStream;
use llm_dit_fault::Fault;

use crate::records::{
    job::{JobId, JobRecord},
    picture::Made,
};

/// A claim that was not extended for three times as long may go to another worker.
pub(crate) const EXTEND_EVERY: Duration = Duration::from_secs(10);

/// The three parts.
#[derive(Clone, Debug)]
pub(crate) struct JobStore {
    pub queue: Arc<dyn JobQueue>,
    pub index: Arc<dyn JobIndex>,
    pub pictures: Arc<dyn PictureStore>,
}

/// Jobs that wait for a worker, in the order in which they were published.
#[tonic::async_trait]
pub(crate) trait JobQueue: fmt::Debug + Send + Sync {
    /// Puts a job, whose record is in the index, behind those that wait.
    async fn publish(&self, job: JobId) -> Result<(), Fault>;
    /// The next job, as soon as there is one. No other worker gets it as long as the claim is
    /// extended.
    async fn claim(&self) -> Box<dyn Claim>;
}

/// A worker's right to a job.
#[tonic::async_trait]
pub(crate) trait Claim: Send {
    fn job(&self) -> JobId;
    /// Says that the job is still being worked at; to be called every [`EXTEND_EVERY`].
    async fn extend(&mut self) -> Result<(), Fault>;
    /// Stores the end of the job and its picture in one transaction, and drops the picture that it
    /// started from. Returns the record that stands from now on: this one with the picture's id in
    /// the history, or the end that was stored before it, and then nothing is changed. `None` if the
    /// job was removed. May be called again after an error.
    async fn finish(
        &mut self,
        record: JobRecord,
        picture: Option<Made>,
    ) -> Result<Option<JobRecord>, Fault>;
    /// Gives the job, which is not over, to the next worker.
    async fn requeue(&mut self, record: JobRecord) -> Result<(), Fault>;
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
        }
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
