//! The history in a key-value bucket: its revisions are the ids of images, and creating a key twice is
//! refused, so that no job has two entries.

use std::sync::Arc;

use bytes::Bytes;
use jiff::Timestamp;
use llm_dit_fault::Fault;
use llm_dit_memory::MemoryBudget;
use uuid::Uuid;

use super::{
    claims::lacks_entry,
    fault::failed,
    mirror::{Kept, parse},
    records::{encode, result_of},
    server::Shared,
};
use crate::{
    history::{Entry, History, Page, Picture, small},
    jobs::store::{JobIndex as _, StoredJob},
    records::job::{JobRecord, JobState},
};

impl Shared {
    /// Writes the history entry of a job that is done, unless there is one, and its id into the record.
    /// Does nothing to other jobs. Whoever finds that it was left undone may call it.
    pub(super) async fn complete(&self, stored: StoredJob) -> Result<JobRecord, Fault> {
        let StoredJob { mut record, revision } = stored;
        if !lacks_entry(&record) {
            return Ok(record);
        }
        let (JobState::Done(about), Some(owner)) = (&mut record.state, &record.owner) else {
            return Ok(record);
        };
        let object = result_of(record.id, owner);
        let Some(found) = self.0.objects.about(&object).await? else {
            return Err(Fault::Unavailable(format!("the image of job {} is missing", record.id)));
        };
        let timestamp = record.ended.clone().unwrap_or_else(|| Timestamp::now().to_string());
        let kept = Kept { entry: Entry::from_about(about, found.bytes, timestamp), object };
        let id = self.keep(&record.id.to_string(), kept).await?;
        about.history_id = Some(id);
        match self.put_record(&record, revision).await? {
            Some(_) => Ok(record),
            // Another process completes it too.
            None => Ok(self.by_id(record.id).await?.map_or(record, |stored| stored.record)),
        }
    }

    /// The id of the entry under this key, which is this one or was there before.
    async fn keep(&self, key: &str, kept: Kept) -> Result<u64, Fault> {
        let bucket = &self.0.entries;
        let id = match self.compare_and_set(bucket, key, encode(&kept)?, 0).await? {
            Some(id) => id,
            None => match self.value(bucket, key).await? {
                Some(entry) => entry.revision,
                None => return Err(Fault::Unavailable("the history has changed".to_owned())),
            },
        };
        self.0.mirror.put(key.to_owned(), id, kept);
        self.trim().await;
        Ok(id)
    }

    /// Removes the oldest images beyond the limits.
    pub(super) async fn trim(&self) {
        let (max_entries, max_bytes) = (self.0.max_entries, self.0.max_bytes);
        while let Some(oldest) = self.0.mirror.superfluous(max_entries, max_bytes) {
            if let Err(fault) = self.delete(oldest).await {
                tracing::warn!(id = oldest, %fault, "failed to remove an old image");
                return;
            }
        }
    }

    /// An entry with its key. The mirror may not have what another gateway has just stored.
    async fn lookup(&self, id: u64) -> Result<Option<(String, Kept)>, Fault> {
        if let Some(known) = self.0.mirror.get(id) {
            return Ok(Some(known));
        }
        self.ready().await?;
        use async_nats::jetstream::stream::LastRawMessageErrorKind as Kind;
        let message = match self.0.entries.stream.get_raw_message(id).await {
            Ok(message) => message,
            Err(error) if error.kind() == Kind::NoMessageFound => return Ok(None),
            Err(error) => return Err(failed("reading the history", &error)),
        };
        let key = message.subject.strip_prefix(&*self.0.entries.prefix).map(str::to_owned);
        Ok(key.zip(parse(&message.payload)))
    }
}

#[tonic::async_trait]
impl History for Shared {
    fn max_entries(&self) -> usize {
        self.0.max_entries
    }

    fn trouble(&self) -> Option<String> {
        Self::trouble(self)
    }

    async fn flush(&self) {}

    async fn add(&self, entry: Entry, file: Bytes) -> Option<u64> {
        let key = Uuid::new_v4();
        let object = result_of(key, "direct");
        let kept = async {
            self.ready().await?;
            self.0.objects.put(&object, &file).await?;
            let object = object.clone();
            self.keep(&key.to_string(), Kept { entry, object }).await
        };
        kept.await
            .inspect_err(|fault| tracing::error!(%fault, "failed to store an image in the history"))
            .ok()
    }

    async fn page(&self, limit: usize, before: Option<u64>) -> Result<Page, Fault> {
        let (entries, total) = self.0.mirror.page(limit, before);
        Ok(Page { entries, total })
    }

    async fn entry(&self, id: u64) -> Result<Option<Entry>, Fault> {
        Ok(self.lookup(id).await?.map(|(_, kept)| kept.entry))
    }

    async fn picture(&self, id: u64) -> Result<Option<Picture>, Fault> {
        let Some((_, Kept { entry, object })) = self.lookup(id).await? else { return Ok(None) };
        let Entry { media_type, parameters_omitted, .. } = entry;
        self.ready().await?;
        let file = self.0.objects.get(&object).await?;
        Ok(file.map(|file| Picture { file, media_type, parameters_omitted }))
    }

    async fn delete(&self, id: u64) -> Result<Option<u64>, Fault> {
        let Some((key, kept)) = self.lookup(id).await? else { return Ok(None) };
        // The entry first: what is left of an image that no entry names is swept.
        self.purge(&self.0.entries, &key).await?;
        self.0.mirror.remove(&key);
        self.0.objects.delete(&kept.object).await?;
        Ok(Some(self.0.mirror.len()))
    }

    async fn clear(&self) -> Result<u64, Fault> {
        let mut cleared = 0;
        for id in self.0.mirror.ids() {
            cleared += u64::from(self.delete(id).await?.is_some());
        }
        Ok(cleared)
    }

    async fn thumbnail(&self, id: u64, memory: &MemoryBudget) -> Result<Option<Bytes>, Fault> {
        let turn = Arc::clone(&self.0.thumbnails).acquire_owned().await;
        let gone = |_| Fault::Internal("the history makes no thumbnails any more".to_owned());
        let turn = turn.map_err(gone)?;
        let Some(picture) = self.picture(id).await? else { return Ok(None) };
        small(id, picture.file, turn, memory).await
    }
}
