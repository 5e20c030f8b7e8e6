//! The history as queue, index and pictures of jobs: a job's end and its picture are one
//! transaction.

use std::sync::{Arc, atomic::Ordering};

use bytes::Bytes;
use futures::stream::BoxStream;
use llm_dit_fault::Fault;
use tokio::sync::mpsc;
use tokio_stream::wrappers::UnboundedReceiverStream;

use super::{
    EmbeddedHistory,
    entry::Entry,
    store::{Store, StoreError},
};
use crate::{
    jobs::{
        Line,
        store::{Change, Claim, JobIndex, JobQueue, PictureStore, PutError, Revision, StoredJob},
    },
    records::{
        job::{JobId, JobRecord, JobState},
        picture::Made,
    },
};

/// Jobs in the history's database, which belongs to one process. Clones share it.
#[derive(Clone, Debug)]
pub(crate) struct EmbeddedJobStore {
    history: Arc<EmbeddedHistory>,
    /// What the database says is not over, in order.
    line: Arc<Line>,
}

/// Lasts as long as the process, which alone can open the database.
struct EmbeddedClaim {
    store: EmbeddedJobStore,
    job: JobId,
}

impl EmbeddedJobStore {
    /// Opens the store. Jobs that an earlier gateway did not finish are in its queue.
    ///
    /// # Errors
    ///
    /// [`Fault`] if the database fails.
    pub async fn open(history: Arc<EmbeddedHistory>) -> Result<Self, Fault> {
        let line = Arc::new(Line::default());
        for job in history.ask(|store| store.unfinished_jobs()).await? {
            line.push(job);
        }
        Ok(Self { history, line })
    }
}

#[tonic::async_trait]
impl JobQueue for EmbeddedJobStore {
    async fn publish(&self, job: JobId) -> Result<(), Fault> {
        // On disk its record says that it is queued.
        self.line.push(job);
        Ok(())
    }

    async fn claim(&self) -> Box<dyn Claim> {
        let job = self.line.next().await;
        Box::new(EmbeddedClaim { store: self.clone(), job })
    }
}

#[tonic::async_trait]
impl Claim for EmbeddedClaim {
    fn job(&self) -> JobId {
        self.job
    }

    async fn extend(&mut self) -> Result<(), Fault> {
        Ok(())
    }

    async fn finish(
        &mut self,
        mut record: JobRecord,
        picture: Option<Made>,
    ) -> Result<Option<JobRecord>, Fault> {
        let history = &self.store.history;
        let picture = picture.map(|made| {
            let id = history.next_id.fetch_add(1, Ordering::Relaxed);
            if let JobState::Done(about) = &mut record.state {
                about.history_id = Some(id);
            }
            (id, Entry::of(&made), made.file)
        });
        let end = move |store: &mut Store| {
            let picture = picture.as_ref().map(|(id, entry, file)| (*id, entry, &file[..]));
            store.end_job(record, picture)
        };
        history.ask_for(end).await?.map_err(|error| {
            Fault::Unavailable(
                error.room().unwrap_or_else(|| format!("the database failed: {error}")),
            )
        })
    }

    async fn requeue(&mut self, record: JobRecord) -> Result<(), Fault> {
        self.store.history.ask(move |store| store.requeue_job(record)).await?;
        self.store.line.push(self.job);
        Ok(())
    }
}

#[tonic::async_trait]
impl JobIndex for EmbeddedJobStore {
    async fn put(&self, record: JobRecord, expected: Revision) -> Result<Revision, PutError> {
        let stored = self.history.ask_for(move |store| store.put_job(record, expected)).await?;
        stored.map_err(not_kept)?.ok_or(PutError::Conflict)
    }

    async fn by_id(&self, id: JobId) -> Result<Option<StoredJob>, Fault> {
        self.history.ask(move |store| store.job(id)).await
    }

    async fn by_key(&self, key: &str) -> Result<Option<StoredJob>, Fault> {
        let key = key.to_owned();
        self.history.ask(move |store| store.job_with_key(&key)).await
    }

    async fn remove(&self, ids: Vec<JobId>) -> Result<(), Fault> {
        self.history.ask(move |store| store.remove_jobs(&ids)).await
    }

    async fn watch(&self) -> Result<BoxStream<'static, Change>, Fault> {
        let (watcher, changes) = mpsc::unbounded_channel();
        self.history.ask(|store| store.watch_jobs(watcher)).await?;
        Ok(Box::pin(UnboundedReceiverStream::new(changes)))
    }
}

#[tonic::async_trait]
impl PictureStore for EmbeddedJobStore {
    async fn put(&self, job: JobId, picture: Bytes) -> Result<(), Fault> {
        let kept = self.history.ask_for(move |store| store.put_source(job, &picture)).await?;
        kept.map_err(not_kept)
    }

    async fn get(&self, job: JobId) -> Result<Option<Bytes>, Fault> {
        self.history.ask(move |store| store.job_picture(job)).await
    }
}

fn not_kept(error: StoreError) -> Fault {
    tracing::error!(%error, "rejected a job because it cannot be stored");
    let why = error.room().unwrap_or_else(|| "its database has failed".to_owned());
    Fault::Unavailable(format!(
        "the gateway cannot store the job: {why}. POST /api/generate works without storage"
    ))
}

#[cfg(test)]
mod tests;
