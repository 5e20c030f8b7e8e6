//! The pictures made so far, in one file on disk, and beside them the jobs.
//!
//! One thread owns the database. A picture is answered as soon as it is handed over; a later
//! request for it queues behind it on the thread, so it is never too early. Every change is one
//! transaction that is on disk when it ends: a killed gateway loses at most the changes that were
//! still queued.
//!
//! A disk may be full. Then a change fails as a whole, [`History::trouble`] says so, and the next
//! change finds out by itself whether there is room again.

mod entry;
mod jobs;
mod loras;
mod sessions;
mod store;
mod thumbnails;

use std::{
    fmt,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
};

use bytes::Bytes;
use llm_dit_fault::Fault;
use llm_dit_memory::MemoryBudget;
use parking_lot::Mutex;
use tokio::sync::{Semaphore, mpsc, oneshot};

use self::store::{Store, StoreError};
pub(crate) use self::{
    entry::{Entry, Page, Picture},
    jobs::EmbeddedJobStore,
    thumbnails::{AT_ONCE, small},
};
use crate::{
    error::Error,
    options::{self, KeepOptions},
};

/// Changes and questions that may wait for the thread.
const LINE: usize = 64;

/// The pictures made so far, wherever they are kept.
#[tonic::async_trait]
pub(crate) trait History: fmt::Debug + Send + Sync {
    /// Images that are kept at most.
    fn max_entries(&self) -> usize;
    /// The error of the last change, while changes fail.
    fn trouble(&self) -> Option<String>;
    /// Waits until everything handed over so far is stored.
    async fn flush(&self);
    /// Keeps a picture. Returns its id. A picture that cannot be kept is still a picture.
    async fn add(&self, entry: Entry, file: Bytes) -> Option<u64>;
    /// At most `limit` entries with ids below `before`.
    async fn page(&self, limit: usize, before: Option<u64>) -> Result<Page, Fault>;
    /// What is known of a picture; `None` if there is none of this id.
    async fn entry(&self, id: u64) -> Result<Option<Entry>, Fault>;
    /// The file of a picture; `None` if there is none of this id.
    async fn picture(&self, id: u64) -> Result<Option<Picture>, Fault>;
    /// Deletes a picture. Returns how many are left; `None` if there was none of this id.
    async fn delete(&self, id: u64) -> Result<Option<u64>, Fault>;
    /// Deletes all pictures. Returns how many there were.
    async fn clear(&self) -> Result<u64, Fault>;
    /// A small JPEG of a picture. `None` if there is no such picture, or if it cannot be decoded.
    async fn thumbnail(&self, id: u64, memory: &MemoryBudget) -> Result<Option<Bytes>, Fault>;
}

/// The door to the thread.
#[derive(Debug)]
pub(crate) struct EmbeddedHistory {
    line: mpsc::Sender<Work>,
    next_id: AtomicU64,
    /// Images that are kept at most.
    max_entries: usize,
    /// Turns to make a thumbnail: a picture takes much more memory than its file.
    thumbnails: Arc<Semaphore>,
    /// Why the last change failed, until one succeeds.
    trouble: Arc<Mutex<Option<String>>>,
}

type Work = Box<dyn FnOnce(&mut Store) + Send>;

impl EmbeddedHistory {
    /// Opens the history; `None` if none is kept. If another gateway uses the data folder, this one
    /// goes without a history and logs a warning.
    ///
    /// # Errors
    ///
    /// [`Error::History`] if a folder that the operator named cannot be used, or if the thread
    /// cannot be started.
    pub fn open(keep: &KeepOptions, data: Option<&Path>) -> Result<Option<Self>, Error> {
        let (folder, must) = match &keep.history {
            options::History::Off => return Ok(None),
            options::History::Folder(folder) => (folder.clone(), true),
            options::History::DataFolder => match data {
                Some(data) => (data.join("history"), false),
                None => {
                    tracing::warn!(
                        "no history: this user has no data folder; set one with --history"
                    );
                    return Ok(None);
                }
            },
        };
        match Store::open(&folder, keep.history_max, keep.history_bytes) {
            Ok(store) => Ok(Some(Self::on(store, keep.history_max)?)),
            Err(error) if must => Err(Error::History(error.to_string())),
            Err(error) => {
                tracing::warn!(%error, "no history; set a folder with --history, or pass --no-history");
                Ok(None)
            }
        }
    }

    fn on(mut store: Store, max_entries: usize) -> Result<Self, Error> {
        let (line, mut works) = mpsc::channel::<Work>(LINE);
        let next_id = AtomicU64::new(store.next_id());
        let trouble = store.trouble();
        let body = move || {
            store.run(Store::compact);
            while let Some(work) = works.blocking_recv() {
                store.run(work);
            }
        };
        thread::Builder::new()
            .name("history".to_owned())
            .spawn(body)
            .map_err(|error| Error::History(format!("no thread for the history: {error}")))?;
        Ok(Self {
            line,
            next_id,
            max_entries,
            thumbnails: Arc::new(Semaphore::new(thumbnails::AT_ONCE)),
            trouble,
        })
    }

    async fn ask<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Store) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, Fault> {
        self.ask_for(work).await?.map_err(|error| match error.room() {
            Some(why) => Fault::Unavailable(why),
            None => Fault::Internal(format!("the history failed: {error}")),
        })
    }

    /// The fault is the thread's.
    async fn ask_for<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Store) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<Result<T, StoreError>, Fault> {
        let gone = || Fault::Internal("the history's thread has ended".to_owned());
        let (send, answer) = oneshot::channel();
        let work = move |store: &mut Store| {
            let _ = send.send(work(store));
        };
        self.line.send(Box::new(work)).await.map_err(|_| gone())?;
        // Work that panicked answers nothing.
        let failed = |_| Fault::Internal("the history's database has failed".to_owned());
        answer.await.map_err(failed)
    }
}

#[tonic::async_trait]
impl History for EmbeddedHistory {
    fn max_entries(&self) -> usize {
        self.max_entries
    }

    fn trouble(&self) -> Option<String> {
        self.trouble.lock().clone()
    }

    async fn flush(&self) {
        // A thread that has ended has nothing left to write.
        let _ = self.ask(|_| Ok(())).await;
    }

    async fn add(&self, entry: Entry, file: Bytes) -> Option<u64> {
        // The caller waits only for a place in the queue, not for the disk.
        let place = self.line.reserve().await.ok()?;
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        place.send(Box::new(move |store: &mut Store| {
            if let Err(error) = store.add(id, &entry, &file) {
                tracing::error!(id, %error, "failed to store an image in the history");
            }
        }));
        Some(id)
    }

    async fn page(&self, limit: usize, before: Option<u64>) -> Result<Page, Fault> {
        self.ask(move |store| store.page(limit, before)).await
    }

    async fn entry(&self, id: u64) -> Result<Option<Entry>, Fault> {
        self.ask(move |store| store.entry(id)).await
    }

    async fn picture(&self, id: u64) -> Result<Option<Picture>, Fault> {
        self.ask(move |store| store.picture(id)).await
    }

    async fn delete(&self, id: u64) -> Result<Option<u64>, Fault> {
        self.ask(move |store| store.delete(id)).await
    }

    async fn clear(&self) -> Result<u64, Fault> {
        let cleared = self.ask(Store::clear).await?;
        // Nobody waits for it. A thread with much to do goes without it until the next start.
        let _ = self.line.try_send(Box::new(Store::compact));
        Ok(cleared)
    }

    async fn thumbnail(&self, id: u64, memory: &MemoryBudget) -> Result<Option<Bytes>, Fault> {
        self.make_thumbnail(id, memory).await
    }
}
