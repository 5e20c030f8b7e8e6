//! Jobs of a gateway without a history; they are lost when it ends.

use std::{collections::HashMap, sync::Arc};

use bytes::Bytes;
use futures::stream::BoxStream;
use llm_dit_fault::Fault;
use parking_lot::Mutex;
use tokio::sync::mpsc::{self, UnboundedSender};
use tokio_stream::wrappers::UnboundedReceiverStream;

use super::{
    line::Line,
    store::{Change, Claim, JobIndex, JobQueue, PictureStore, PutError, Revision, StoredJob},
};
use crate::records::{
    job::{JobId, JobRecord},
    picture::Made,
};

/// Queue, index and pictures in memory. Clones share them.
#[derive(Clone, Debug, Default)]
pub(crate) struct InMemoryJobStore(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    line: Line,
    table: Mutex<Table>,
}

#[derive(Debug, Default)]
struct Table {
    /// Oldest first.
    jobs: Vec<StoredJob>,
    pictures: HashMap<JobId, Bytes>,
    watchers: Vec<UnboundedSender<Change>>,
}

/// Lasts as long as the process does, as the job.
struct InMemoryClaim {
    store: InMemoryJobStore,
    job: JobId,
}

#[tonic::async_trait]
impl JobQueue for InMemoryJobStore {
    async fn publish(&self, job: JobId) -> Result<(), Fault> {
        self.0.line.push(job);
        Ok(())
    }

    async fn claim(&self) -> Box<dyn Claim> {
        let job = self.0.line.next().await;
        Box::new(InMemoryClaim { store: self.clone(), job })
    }
}

#[tonic::async_trait]
impl Claim for InMemoryClaim {
    fn job(&self) -> JobId {
        self.job
    }

    async fn extend(&mut self) -> Result<(), Fault> {
        Ok(())
    }

    async fn finish(
        &mut self,
        record: JobRecord,
        picture: Option<Made>,
    ) -> Result<Option<JobRecord>, Fault> {
        let mut table = self.store.0.table.lock();
        let Some(known) = table.find(self.job) else { return Ok(None) };
        if known.record.is_over() {
            return Ok(Some(known.record.clone()));
        }
        table.replace(record.clone());
        match picture {
            Some(made) => table.pictures.insert(self.job, made.file),
            None => table.pictures.remove(&self.job),
        };
        Ok(Some(record))
    }

    async fn requeue(&mut self, record: JobRecord) -> Result<(), Fault> {
        self.store.0.table.lock().replace(record);
        self.store.0.line.push(self.job);
        Ok(())
    }
}

#[tonic::async_trait]
impl JobIndex for InMemoryJobStore {
    async fn put(&self, record: JobRecord, expected: Revision) -> Result<Revision, PutError> {
        let mut table = self.0.table.lock();
        let known = table.find(record.id).map(|known| known.revision);
        let key = record.key.as_ref().map(|key| &key.text);
        match known {
            None if expected == Revision::NEW
                && key.is_none_or(|key| table.with(key).is_none()) =>
            {
                let stored = StoredJob { record, revision: Revision::NEW.next() };
                table.jobs.push(stored.clone());
                table.tell(Change::Put(Box::new(stored)));
                Ok(Revision::NEW.next())
            }
            Some(revision) if revision == expected => {
                table.replace(record);
                Ok(revision.next())
            }
            _ => Err(PutError::Conflict),
        }
    }

    async fn by_id(&self, id: JobId) -> Result<Option<StoredJob>, Fault> {
        Ok(self.0.table.lock().find(id).cloned())
    }

    async fn by_key(&self, key: &str) -> Result<Option<StoredJob>, Fault> {
        Ok(self.0.table.lock().with(key).cloned())
    }

    async fn remove(&self, ids: Vec<JobId>) -> Result<(), Fault> {
        let mut table = self.0.table.lock();
        table.jobs.retain(|job| !ids.contains(&job.record.id));
        for id in ids {
            table.pictures.remove(&id);
            table.tell(Change::Removed(id));
        }
        Ok(())
    }

    async fn watch(&self) -> Result<BoxStream<'static, Change>, Fault> {
        let (watcher, changes) = mpsc::unbounded_channel();
        let mut table = self.0.table.lock();
        let known = table.jobs.iter().map(|job| Change::Put(Box::new(job.clone())));
        for change in known.chain([Change::UpToDate]) {
            // The receiver is here.
            let _ = watcher.send(change);
        }
        table.watchers.push(watcher);
        Ok(Box::pin(UnboundedReceiverStream::new(changes)))
    }
}

#[tonic::async_trait]
impl PictureStore for InMemoryJobStore {
    async fn put(&self, job: JobId, picture: Bytes) -> Result<(), Fault> {
        self.0.table.lock().pictures.insert(job, picture);
        Ok(())
    }

    async fn get(&self, job: JobId) -> Result<Option<Bytes>, Fault> {
        Ok(self.0.table.lock().pictures.get(&job).cloned())
    }
}

impl Table {
    fn find(&self, id: JobId) -> Option<&StoredJob> {
        self.jobs.iter().rev().find(|job| job.record.id == id)
    }

    fn with(&self, key: &str) -> Option<&StoredJob> {
        let has = |job: &&StoredJob| job.record.key.as_ref().is_some_and(|known| known.text == key);
        self.jobs.iter().rev().find(has)
    }

    /// A job that was removed stays so.
    fn replace(&mut self, record: JobRecord) {
        let known = self.jobs.iter_mut().rev().find(|job| job.record.id == record.id);
        let Some(known) = known else { return };
        *known = StoredJob { record, revision: known.revision.next() };
        let change = Change::Put(Box::new(known.clone()));
        self.tell(change);
    }

    fn tell(&mut self, change: Change) {
        self.watchers.retain(|watcher| watcher.send(change.clone()).is_ok());
    }
}
