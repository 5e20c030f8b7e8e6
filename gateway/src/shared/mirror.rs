//! The history's entries in memory: a mirror of their bucket, from which pages are read.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Duration,
};

use async_nats::{Client, jetstream::kv};
use bytes::Bytes;
use parking_lot::RwLock;
use serde::{Deserialize, Serialize};
use tokio::{sync::oneshot, time};
use tokio_util::task::AbortOnDropHandle;

use super::follow::{self, Heard, follow};
use crate::history::Entry;

/// A mirror that is not complete by then becomes so later.
const FIRST: Duration = Duration::from_secs(10);

/// What is stored of an image of the history. Its id is the revision.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Kept {
    pub entry: Entry,
    /// The name of its object.
    pub object: String,
}

/// By id, oldest first, with the key in the bucket.
type Entries = BTreeMap<u64, (String, Kept)>;

#[derive(Debug)]
pub(super) struct Mirror {
    table: Arc<RwLock<Table>>,
    _following: AbortOnDropHandle<()>,
}

#[derive(Debug, Default)]
struct Table {
    entries: Entries,
    ids: HashMap<String, u64>,
    bytes: u64,
}

impl Mirror {
    /// Follows the bucket. Returns when the mirror is complete.
    pub async fn of(client: Client, bucket: kv::Store) -> Self {
        let table = Arc::new(RwLock::new(Table::default()));
        let (complete, first) = oneshot::channel();
        let following = tokio::spawn({
            let table = Arc::clone(&table);
            async move {
                let mut complete = Some(complete);
                let mut heard = follow(client, bucket, ">");
                while let Some(heard) = heard.recv().await {
                    let is_all = matches!(heard, Heard::All(_));
                    table.write().apply(heard);
                    if is_all && let Some(complete) = complete.take() {
                        let _ = complete.send(());
                    }
                }
            }
        });
        let _ = time::timeout(FIRST, first).await;
        Self { table, _following: AbortOnDropHandle::new(following) }
    }

    /// Newest first.
    pub fn page(&self, limit: usize, before: Option<u64>) -> (Vec<(u64, Entry)>, u64) {
        let table = self.table.read();
        let part = table.entries.range(..before.unwrap_or(u64::MAX)).rev().take(limit);
        let part = part.map(|(id, (_, kept))| (*id, kept.entry.clone())).collect();
        (part, table.entries.len() as u64)
    }

    pub fn get(&self, id: u64) -> Option<(String, Kept)> {
        self.table.read().entries.get(&id).cloned()
    }

    /// How many there are.
    pub fn len(&self) -> u64 {
        self.table.read().entries.len() as u64
    }

    pub fn ids(&self) -> Vec<u64> {
        self.table.read().entries.keys().copied().collect()
    }

    /// Names of the objects of all entries.
    pub fn objects(&self) -> Vec<String> {
        let table = self.table.read();
        table.entries.values().map(|(_, kept)| kept.object.clone()).collect()
    }

    /// The oldest entry, if there are more or larger ones than there may be.
    pub fn superfluous(&self, max_entries: usize, max_bytes: u64) -> Option<u64> {
        let table = self.table.read();
        let is_over = table.entries.len() > max_entries || table.bytes > max_bytes;
        table.entries.keys().next().copied().filter(|_| is_over)
    }

    /// What this process has just stored is there at once.
    pub fn put(&self, key: String, id: u64, kept: Kept) {
        self.table.write().put(key, id, kept);
    }

    pub fn remove(&self, key: &str) {
        self.table.write().remove(key);
    }
}

impl Table {
    fn apply(&mut self, heard: Heard) {
        match heard {
            Heard::All(all) => {
                *self = Self::default();
                for entry in all {
                    self.read(entry);
                }
            }
            Heard::Put(entry) => self.read(entry),
            Heard::Gone(key) => self.remove(&key),
        }
    }

    fn read(&mut self, entry: follow::Entry) {
        match parse(&entry.value) {
            Some(kept) => self.put(entry.key, entry.revision, kept),
            None => tracing::error!(id = entry.revision, "failed to read an entry of the history"),
        }
    }

    fn put(&mut self, key: String, id: u64, kept: Kept) {
        self.remove(&key);
        self.bytes += kept.entry.bytes;
        self.ids.insert(key.clone(), id);
        self.entries.insert(id, (key, kept));
    }

    fn remove(&mut self, key: &str) {
        let Some(id) = self.ids.remove(key) else { return };
        if let Some((_, kept)) = self.entries.remove(&id) {
            self.bytes = self.bytes.saturating_sub(kept.entry.bytes);
        }
    }
}

/// The value of a key; `None` if it is of another version.
pub(super) fn parse(value: &Bytes) -> Option<Kept> {
    serde_json::from_slice(value).ok()
}
