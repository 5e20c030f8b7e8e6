//! The tables, and the rules that hold for all of them at the end of every change.

use redb::{ReadableTable as _, ReadableTableMetadata as _, TableDefinition, WriteTransaction};

use super::{contained::Contained, error::StoreError};
use crate::records::job::JobId;

/// JSON of an [`Entry`](crate::history::entry::Entry).
pub(super) const ENTRIES: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("entries");
pub(super) const PICTURES: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("pictures");
/// Made on the first request for one.
pub(super) const THUMBNAILS: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("thumbnails");
/// `next_id`, and `bytes` of all pictures.
pub(super) const NUMBERS: TableDefinition<'_, &str, u64> = TableDefinition::new("numbers");
/// JSON of a [`JobRecord`](crate::records::job::JobRecord), by its place in the order of acceptance.
pub(super) const JOBS: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("jobs");
/// Pictures that unfinished jobs start from, by the job's id.
pub(super) const SOURCES: TableDefinition<'_, u128, &[u8]> = TableDefinition::new("sources_by_id");
/// Likewise, by the job's number, as earlier gateways stored them.
pub(super) const NUMBERED_SOURCES: TableDefinition<'_, u64, &[u8]> =
    TableDefinition::new("sources");

/// JSON of what is set while the gateway runs, by name.
pub(super) const SETTINGS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("settings");

const NEXT_ID: &str = "next_id";
pub(super) const BYTES: &str = "bytes";

type Table<'a, K, V> = Contained<redb::Table<'a, K, V>>;

/// All tables within one change.
pub(super) struct Tables<'a> {
    pub entries: Table<'a, u64, &'static [u8]>,
    pub pictures: Table<'a, u64, &'static [u8]>,
    pub thumbnails: Table<'a, u64, &'static [u8]>,
    pub jobs: Table<'a, u64, &'static [u8]>,
    pub sources: Table<'a, u128, &'static [u8]>,
    numbered_sources: Table<'a, u64, &'static [u8]>,
    pub settings: Table<'a, &'static str, &'static [u8]>,
    numbers: Table<'a, &'static str, u64>,
}

impl<'a> Tables<'a> {
    /// Opens the tables, and creates those that are missing.
    ///
    /// # Errors
    ///
    /// [`StoreError`] if the database fails.
    pub fn open(transaction: &'a WriteTransaction) -> Result<Self, StoreError> {
        Ok(Self {
            entries: Contained::new(transaction.open_table(ENTRIES)?),
            pictures: Contained::new(transaction.open_table(PICTURES)?),
            thumbnails: Contained::new(transaction.open_table(THUMBNAILS)?),
            jobs: Contained::new(transaction.open_table(JOBS)?),
            sources: Contained::new(transaction.open_table(SOURCES)?),
            numbered_sources: Contained::new(transaction.open_table(NUMBERED_SOURCES)?),
            settings: Contained::new(transaction.open_table(SETTINGS)?),
            numbers: Contained::new(transaction.open_table(NUMBERS)?),
        })
    }

    /// The id of the next picture.
    ///
    /// # Errors
    ///
    /// [`StoreError`] if the database fails.
    pub fn next_id(&self) -> Result<u64, StoreError> {
        let counted = self.numbers.get(NEXT_ID)?.map_or(1, |id| id.value());
        // Even if the number was damaged, no picture replaces another.
        let last = self.entries.last()?.map_or(0, |(id, _)| id.value());
        Ok(counted.max(last.saturating_add(1)))
    }

    /// Stores a picture and its entry (JSON) under `id`.
    ///
    /// # Errors
    ///
    /// [`StoreError`] if the database fails.
    pub fn keep(&mut self, id: u64, entry: &[u8], file: &[u8]) -> Result<(), StoreError> {
        self.entries.insert(id, entry)?;
        self.pictures.insert(id, file)?;
        let next = self.next_id()?.max(id.saturating_add(1));
        self.numbers.insert(NEXT_ID, next)?;
        self.grow(file.len() as u64)
    }

    /// Stores a thumbnail of a picture that is there and has none.
    ///
    /// # Errors
    ///
    /// [`StoreError`] if the database fails.
    pub fn keep_thumbnail(&mut self, id: u64, small: &[u8]) -> Result<(), StoreError> {
        if self.entries.get(id)?.is_none() || self.thumbnails.get(id)?.is_some() {
            return Ok(());
        }
        self.thumbnails.insert(id, small)?;
        self.grow(small.len() as u64)
    }

    fn grow(&mut self, by: u64) -> Result<(), StoreError> {
        let bytes = self.bytes()?.saturating_add(by);
        self.numbers.insert(BYTES, bytes)?;
        Ok(())
    }

    /// Removes a picture. False if there is none of this id.
    ///
    /// # Errors
    ///
    /// [`StoreError`] if the database fails.
    pub fn remove(&mut self, id: u64) -> Result<bool, StoreError> {
        let was_there = self.entries.remove(id)?.is_some();
        let mut freed = 0;
        for table in [&mut self.pictures, &mut self.thumbnails] {
            freed += table.remove(id)?.map_or(0, |file| file.value().len() as u64);
        }
        let bytes = self.bytes()?.saturating_sub(freed);
        self.numbers.insert(BYTES, bytes)?;
        Ok(was_there)
    }

    /// Removes all pictures. Returns how many there were.
    ///
    /// # Errors
    ///
    /// [`StoreError`] if the database fails.
    pub fn clear(&mut self) -> Result<u64, StoreError> {
        let count = self.entries.len()?;
        self.entries.retain(|_, _| false)?;
        self.pictures.retain(|_, _| false)?;
        self.thumbnails.retain(|_, _| false)?;
        self.numbers.insert(BYTES, 0)?;
        Ok(count)
    }

    /// Moves the source pictures that an older gateway stored under job numbers to the jobs' ids.
    ///
    /// # Errors
    ///
    /// [`StoreError`] if the database fails.
    pub fn move_numbered_sources(&mut self, jobs: &[(u64, JobId)]) -> Result<(), StoreError> {
        for (number, id) in jobs {
            if let Some(file) = self.numbered_sources.remove(*number)? {
                self.sources.insert(id.as_u128(), file.value())?;
            }
        }
        Ok(())
    }

    /// Removes the oldest pictures until at most `max_entries` and `max_bytes` are left.
    ///
    /// # Errors
    ///
    /// [`StoreError`] if the database fails.
    pub fn trim(&mut self, max_entries: u64, max_bytes: u64) -> Result<(), StoreError> {
        while self.entries.len()? > max_entries || self.bytes()? > max_bytes {
            let oldest = self.entries.first()?.map(|(id, _)| id.value());
            let Some(oldest) = oldest else { break };
            self.remove(oldest)?;
        }
        Ok(())
    }

    fn bytes(&self) -> Result<u64, StoreError> {
        Ok(self.numbers.get(BYTES)?.map_or(0, |bytes| bytes.value()))
    }
}
