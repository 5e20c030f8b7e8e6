//! Records of jobs in a key-value bucket: `job.ID`, and `key.HASH` for each `Idempotency-Key`.

use std::{
    collections::HashSet,
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use data_encoding::HEXLOWER;
use futures::stream::BoxStream;
use llm_dit_fault::Fault;
use serde::Serialize;
use sha2::{Digest as _, Sha256};
use tokio::sync::mpsc;
use tokio_stream::wrappers::UnboundedReceiverStream;

use super::{
    follow::{Entry, Heard, follow},
    server::Shared,
};
use crate::{
    jobs::store::{Change, JobIndex, PictureStore, PutError, Revision, StoredJob},
    records::job::{JobId, JobRecord, JobState},
};

/// A key whose job did not follow by then belongs to the next request: the gateway that wrote it was
/// killed in between.
const KEY_ALONE: Duration = Duration::from_secs(60);
pub(super) const JOB_KEYS: &str = "job.*";

pub(super) fn job_key(id: JobId) -> String {
    format!("job.{id}")
}

fn id_of(key: &str) -> Option<JobId> {
    key.strip_prefix("job.")?.parse().ok()
}

/// Keys of clients may hold characters that those of a bucket may not.
fn key_key(text: &str) -> String {
    format!("key.{}", HEXLOWER.encode(&Sha256::digest(text)))
}

/// The object that a job starts from.
pub(super) fn source_of(id: JobId) -> String {
    format!("src.{id}")
}

/// The object that a worker made of a job.
pub(super) fn result_of(id: JobId, owner: &str) -> String {
    format!("res.{id}.{owner}")
}

pub(super) fn encode(value: &impl Serialize) -> Result<Bytes, Fault> {
    let failed = |error| Fault::Internal(format!("a record cannot be written: {error}"));
    serde_json::to_vec(value).map(Bytes::from).map_err(failed)
}

/// A stored record; `None`, with a line in the log, if it is of another version.
pub(super) fn parse(entry: &Entry) -> Option<StoredJob> {
    let read = serde_json::from_slice(&entry.value);
    let read = read.inspect_err(|error| {
        tracing::error!(key = entry.key, %error, "failed to read a stored job");
    });
    Some(StoredJob { record: read.ok()?, revision: Revision(entry.revision) })
}

#[tonic::async_trait]
impl JobIndex for Shared {
    async fn put(&self, record: JobRecord, expected: Revision) -> Result<Revision, PutError> {
        let key = record.key.as_ref().filter(|_| expected == Revision::NEW);
        if let Some(key) = key {
            self.take_key(&key.text, record.id).await?;
        }
        let stored = self.put_record(&record, expected).await;
        if let (Err(_), Some(key)) = (&stored, key) {
            // At worst it waits until it is too old.
            let _ = self.purge(&self.0.records, &key_key(&key.text)).await;
        }
        stored?.ok_or(PutError::Conflict)
    }

    async fn by_id(&self, id: JobId) -> Result<Option<StoredJob>, Fault> {
        let Some(entry) = self.value(&self.0.records, &job_key(id)).await? else { return Ok(None) };
        let record = serde_json::from_slice(&entry.value);
        let record =
            record.map_err(|error| Fault::Internal(format!("job {id} cannot be read: {error}")))?;
        Ok(Some(StoredJob { record, revision: Revision(entry.revision) }))
    }

    async fn by_key(&self, key: &str) -> Result<Option<StoredJob>, Fault> {
        let Some(entry) = self.value(&self.0.records, &key_key(key)).await? else {
            return Ok(None);
        };
        let Ok(id) = serde_json::from_slice::<JobId>(&entry.value) else { return Ok(None) };
        let stored = self.by_id(id).await?;
        Ok(stored.filter(|stored| stored.record.key.as_ref().is_some_and(|own| own.text == key)))
    }

    async fn remove(&self, ids: Vec<JobId>) -> Result<(), Fault> {
        for id in ids {
            if let Some(stored) = self.by_id(id).await?
                && let Some(key) = &stored.record.key
            {
                self.purge(&self.0.records, &key_key(&key.text)).await?;
            }
            self.purge(&self.0.records, &job_key(id)).await?;
        }
        Ok(())
    }

    async fn watch(&self) -> Result<BoxStream<'static, Change>, Fault> {
        self.ready().await?;
        let (send, changes) = mpsc::unbounded_channel();
        let mut heard = follow(self.0.client.clone(), self.0.records.clone(), JOB_KEYS);
        let mut known = HashSet::new();
        // What changes from now on is told as a change.
        let gone = || Fault::Unavailable("the shared queue is not followed any more".to_owned());
        for change in changes_of(heard.recv().await.ok_or_else(gone)?, &mut known) {
            // The receiver is here.
            let _ = send.send(change);
        }
        tokio::spawn(async move {
            loop {
                let heard = tokio::select! {
                    () = send.closed() => return,
                    heard = heard.recv() => heard,
                };
                let Some(heard) = heard else { return };
                for change in changes_of(heard, &mut known) {
                    let _ = send.send(change);
                }
            }
        });
        Ok(Box::pin(UnboundedReceiverStream::new(changes)))
    }
}

#[tonic::async_trait]
impl PictureStore for Shared {
    async fn put(&self, job: JobId, picture: Bytes) -> Result<(), Fault> {
        self.ready().await?;
        self.0.objects.put(&source_of(job), &picture).await
    }

    async fn get(&self, job: JobId) -> Result<Option<Bytes>, Fault> {
        let Some(StoredJob { record, .. }) = self.by_id(job).await? else { return Ok(None) };
        let name = match (&record.state, &record.owner) {
            (JobState::Queued | JobState::Running, _) => source_of(job),
            (JobState::Done(_), Some(owner)) => result_of(job, owner),
            _ => return Ok(None),
        };
        self.0.objects.get(&name).await
    }
}

impl Shared {
    pub(super) async fn put_record(
        &self,
        record: &JobRecord,
        expected: Revision,
    ) -> Result<Option<Revision>, Fault> {
        let (key, value) = (job_key(record.id), encode(record)?);
        let stored = self.compare_and_set(&self.0.records, &key, value, expected.0).await?;
        Ok(stored.map(Revision))
    }

    /// Gives an `Idempotency-Key` to a job that is about to be stored.
    async fn take_key(&self, text: &str, job: JobId) -> Result<(), PutError> {
        let (bucket, key) = (&self.0.records, key_key(text));
        let value = encode(&job)?;
        if self.compare_and_set(bucket, &key, value.clone(), 0).await?.is_some() {
            return Ok(());
        }
        let Some(entry) = self.value(bucket, &key).await? else { return Err(PutError::Conflict) };
        let age = SystemTime::from(entry.created).elapsed().unwrap_or_default();
        if age < KEY_ALONE || self.by_key(text).await?.is_some() {
            return Err(PutError::Conflict);
        }
        let taken = self.compare_and_set(bucket, &key, value, entry.revision).await?;
        taken.map(drop).ok_or(PutError::Conflict)
    }
}

/// `known`: the jobs that were told.
fn changes_of(heard: Heard, known: &mut HashSet<JobId>) -> Vec<Change> {
    match heard {
        Heard::All(all) => {
            let mut all: Vec<StoredJob> = all.iter().filter_map(parse).collect();
            // The bucket is in the order of the last changes.
            all.sort_by(|a, b| a.record.created.cmp(&b.record.created));
            let now: HashSet<JobId> = all.iter().map(|job| job.record.id).collect();
            let gone: Vec<JobId> = known.difference(&now).copied().collect();
            *known = now;
            let puts = all.into_iter().map(|job| Change::Put(Box::new(job)));
            let gone = gone.into_iter().map(Change::Removed);
            puts.chain(gone).chain([Change::UpToDate]).collect()
        }
        Heard::Put(entry) => {
            let Some(stored) = parse(&entry) else { return Vec::new() };
            known.insert(stored.record.id);
            vec![Change::Put(Box::new(stored))]
        }
        Heard::Gone(key) => {
            let gone = id_of(&key).inspect(|id| _ = known.remove(id));
            gone.map(Change::Removed).into_iter().collect()
        }
    }
}
