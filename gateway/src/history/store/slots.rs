//! Where each job is in the database.

use std::collections::HashMap;

use tokio::sync::mpsc::UnboundedSender;

use crate::{
    jobs::store::{Change, Revision, StoredJob},
    records::job::{JobId, JobRecord},
};

/// Of every stored job that can be read. In memory: one process has the database.
#[derive(Debug, Default)]
pub(super) struct JobSlots {
    slots: HashMap<JobId, Slot>,
    /// That of the next job; numbers are in the order of acceptance.
    pub next_number: u64,
    watchers: Vec<UnboundedSender<Change>>,
}

#[derive(Clone, Debug)]
pub(super) struct Slot {
    pub number: u64,
    pub revision: Revision,
    key: Option<String>,
}

impl JobSlots {
    /// A job that an earlier gateway stored.
    pub fn restore(&mut self, number: u64, record: &JobRecord) {
        let key = record.key.as_ref().map(|key| key.text.clone());
        self.slots.insert(record.id, Slot { number, revision: Revision::NEW.next(), key });
    }

    /// Number and revision of a job.
    pub fn get(&self, id: JobId) -> Option<&Slot> {
        self.slots.get(&id)
    }

    /// The job with this idempotency key.
    pub fn with_key(&self, key: &str) -> Option<JobId> {
        let mut slots = self.slots.iter();
        slots.find_map(|(id, slot)| (slot.key.as_deref() == Some(key)).then_some(*id))
    }

    /// Where a record goes that replaces revision `expected`; `None` if the job has another one, or
    /// is new and its key is not.
    pub fn place(&self, record: &JobRecord, expected: Revision) -> Option<u64> {
        match self.get(record.id) {
            Some(slot) => (slot.revision == expected).then_some(slot.number),
            None => {
                let taken =
                    record.key.as_ref().is_some_and(|key| self.with_key(&key.text).is_some());
                (expected == Revision::NEW && !taken).then_some(self.next_number)
            }
        }
    }

    /// A record was stored under its number.
    pub fn put(&mut self, number: u64, record: JobRecord) -> Revision {
        if let Some(slot) = self.slots.get_mut(&record.id) {
            slot.revision = slot.revision.next();
        } else {
            self.restore(number, &record);
            self.next_number = self.next_number.max(number + 1);
        }
        let revision = self.slots.get(&record.id).map_or(Revision::NEW, |slot| slot.revision);
        self.tell(Change::Put(Box::new(StoredJob { record, revision })));
        revision
    }

    /// Removes a job and notifies the watchers.
    pub fn remove(&mut self, id: JobId) {
        self.slots.remove(&id);
        self.tell(Change::Removed(id));
    }

    /// By number, which is the order of acceptance.
    pub fn in_order(&self) -> Vec<(JobId, Slot)> {
        let mut all: Vec<_> = self.slots.iter().map(|(id, slot)| (*id, slot.clone())).collect();
        all.sort_by_key(|(_, slot)| slot.number);
        all
    }

    /// Sends every change from now on to `watcher`.
    pub fn watch(&mut self, watcher: UnboundedSender<Change>) {
        self.watchers.push(watcher);
    }

    fn tell(&mut self, change: Change) {
        self.watchers.retain(|watcher| watcher.send(change.clone()).is_ok());
    }
}
