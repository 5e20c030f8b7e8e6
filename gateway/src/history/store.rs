//! The database: entries, files and thumbnails by id, bounded in number and in bytes.

use std::{
    fs,
    path::{Path, PathBuf},
};

use bytes::Bytes;
use llm_dit_pictures::thumbnail;
use redb::{
    Database, ReadableDatabase as _, ReadableTable as _, ReadableTableMetadata as _,
    TableDefinition,
};

use super::{Entry, Page, Picture};

const FILE: &str = "history.redb";

/// JSON of an [`Entry`].
const ENTRIES: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("entries");
const PICTURES: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("pictures");
/// Made when somebody first looks.
const THUMBNAILS: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("thumbnails");
/// `next_id`, and `bytes` of all pictures.
const NUMBERS: TableDefinition<'_, &str, u64> = TableDefinition::new("numbers");

const NEXT_ID: &str = "next_id";
const BYTES: &str = "bytes";

/// Pages that the database holds in memory.
const CACHE_BYTES: usize = 16 * 1024 * 1024;
const THUMBNAIL_SIDE: u32 = 256;

/// Why the history is not to be had.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StoreError {
    #[error("the folder {path} cannot be made: {cause}")]
    Folder { path: PathBuf, cause: std::io::Error },
    #[error("{path} is in use by another gateway; give each its own folder with --history")]
    InUse { path: PathBuf },
    #[error(
        "{path} cannot be opened: {cause}; move it away, or name another folder with --history"
    )]
    Open { path: PathBuf, cause: redb::Error },
    #[error("{0}")]
    Database(redb::Error),
    #[error("an entry cannot be read: {0}")]
    Entry(#[from] serde_json::Error),
}

/// redb has an error for each kind of operation.
impl<E: Into<redb::Error>> From<E> for StoreError
where
    redb::Error: From<E>,
    E: RedbError,
{
    fn from(error: E) -> Self {
        Self::Database(error.into())
    }
}

trait RedbError {}
impl RedbError for redb::TransactionError {}
impl RedbError for redb::TableError {}
impl RedbError for redb::StorageError {}
impl RedbError for redb::CommitError {}

pub(crate) struct Store {
    database: Database,
    next_id: u64,
    max_entries: u64,
    max_bytes: u64,
}

impl Store {
    /// Opens the database in a folder, or makes it. A file that was cut off by a crash is repaired.
    pub fn open(folder: &Path, max_entries: usize, max_bytes: u64) -> Result<Self, StoreError> {
        let path = folder.join(FILE);
        fs::create_dir_all(folder)
            .map_err(|cause| StoreError::Folder { path: folder.to_owned(), cause })?;
        let mut builder = Database::builder();
        builder.set_cache_size(CACHE_BYTES);
        let database = builder.create(&path).map_err(|error| match error {
            redb::DatabaseError::DatabaseAlreadyOpen => StoreError::InUse { path: path.clone() },
            other => StoreError::Open { path: path.clone(), cause: other.into() },
        })?;
        let transaction = database.begin_write()?;
        {
            transaction.open_table(ENTRIES)?;
            transaction.open_table(PICTURES)?;
            transaction.open_table(THUMBNAILS)?;
            transaction.open_table(NUMBERS)?;
        }
        transaction.commit()?;
        let mut store = Self { database, next_id: 1, max_entries: max_entries as u64, max_bytes };
        // The bounds may have become tighter.
        store.next_id = store.change(|tables| tables.next_id())?;
        Ok(store)
    }

    /// The id that the first picture after opening gets.
    pub fn next_id(&self) -> u64 {
        self.next_id
    }

    pub fn add(&mut self, id: u64, entry: &Entry, file: &[u8]) -> Result<(), StoreError> {
        let json = serde_json::to_vec(entry)?;
        self.change(|tables| {
            tables.entries.insert(id, &json[..])?;
            tables.pictures.insert(id, file)?;
            let next = tables.next_id()?.max(id + 1);
            tables.numbers.insert(NEXT_ID, next)?;
            tables.grow(file.len() as u64)
        })
    }

    pub fn page(&mut self, limit: usize, before: Option<u64>) -> Result<Page, StoreError> {
        let transaction = self.database.begin_read()?;
        let entries = transaction.open_table(ENTRIES)?;
        let mut page = Page { entries: Vec::new(), total: entries.len()? };
        for item in entries.range(..before.unwrap_or(u64::MAX))?.rev().take(limit) {
            let (id, json) = item?;
            page.entries.push((id.value(), serde_json::from_slice(json.value())?));
        }
        Ok(page)
    }

    pub fn entry(&mut self, id: u64) -> Result<Option<Entry>, StoreError> {
        let transaction = self.database.begin_read()?;
        let json = transaction.open_table(ENTRIES)?.get(id)?;
        Ok(json.map(|json| serde_json::from_slice(json.value())).transpose()?)
    }

    pub fn picture(&mut self, id: u64) -> Result<Option<Picture>, StoreError> {
        let Some(Entry { media_type, .. }) = self.entry(id)? else { return Ok(None) };
        let transaction = self.database.begin_read()?;
        let file = transaction.open_table(PICTURES)?.get(id)?;
        Ok(file.map(|file| Picture { file: Bytes::copy_from_slice(file.value()), media_type }))
    }

    /// A picture that cannot be made small is shown as if it were not there.
    pub fn thumbnail(&mut self, id: u64) -> Result<Option<Bytes>, StoreError> {
        let transaction = self.database.begin_read()?;
        if let Some(known) = transaction.open_table(THUMBNAILS)?.get(id)? {
            return Ok(Some(Bytes::copy_from_slice(known.value())));
        }
        drop(transaction);
        let Some(picture) = self.picture(id)? else { return Ok(None) };
        let small = match thumbnail(&picture.file, THUMBNAIL_SIDE) {
            Ok(small) => small,
            Err(error) => {
                tracing::warn!(id, %error, "a picture of the history cannot be read");
                return Ok(None);
            }
        };
        self.change(|tables| {
            tables.thumbnails.insert(id, &small[..])?;
            tables.grow(small.len() as u64)
        })?;
        Ok(Some(small))
    }

    /// How many are left; `None` if there was none of this id.
    pub fn delete(&mut self, id: u64) -> Result<Option<u64>, StoreError> {
        self.change(|tables| {
            let was_there = tables.remove(id)?;
            Ok(was_there.then_some(tables.entries.len()?))
        })
    }

    /// How many there were.
    pub fn clear(&mut self) -> Result<u64, StoreError> {
        self.change(|tables| {
            let count = tables.entries.len()?;
            tables.entries.retain(|_, _| false)?;
            tables.pictures.retain(|_, _| false)?;
            tables.thumbnails.retain(|_, _| false)?;
            tables.numbers.insert(BYTES, 0)?;
            Ok(count)
        })
    }

    /// All of a change with what the bounds ask for, or nothing of it.
    fn change<T>(
        &mut self,
        change: impl FnOnce(&mut Tables<'_>) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let transaction = self.database.begin_write()?;
        let result = {
            let mut tables = Tables {
                entries: transaction.open_table(ENTRIES)?,
                pictures: transaction.open_table(PICTURES)?,
                thumbnails: transaction.open_table(THUMBNAILS)?,
                numbers: transaction.open_table(NUMBERS)?,
            };
            let result = change(&mut tables)?;
            while tables.entries.len()? > self.max_entries || tables.bytes()? > self.max_bytes {
                let oldest = tables.entries.first()?.map(|(id, _)| id.value());
                let Some(oldest) = oldest else { break };
                tables.remove(oldest)?;
            }
            result
        };
        transaction.commit()?;
        Ok(result)
    }
}

/// All tables within one change.
struct Tables<'a> {
    entries: redb::Table<'a, u64, &'static [u8]>,
    pictures: redb::Table<'a, u64, &'static [u8]>,
    thumbnails: redb::Table<'a, u64, &'static [u8]>,
    numbers: redb::Table<'a, &'static str, u64>,
}

impl Tables<'_> {
    fn bytes(&self) -> Result<u64, StoreError> {
        Ok(self.numbers.get(BYTES)?.map_or(0, |bytes| bytes.value()))
    }

    fn next_id(&self) -> Result<u64, StoreError> {
        Ok(self.numbers.get(NEXT_ID)?.map_or(1, |id| id.value()))
    }

    fn grow(&mut self, by: u64) -> Result<(), StoreError> {
        let bytes = self.bytes()? + by;
        self.numbers.insert(BYTES, bytes)?;
        Ok(())
    }

    fn remove(&mut self, id: u64) -> Result<bool, StoreError> {
        let was_there = self.entries.remove(id)?.is_some();
        let mut freed = 0;
        for table in [&mut self.pictures, &mut self.thumbnails] {
            freed += table.remove(id)?.map_or(0, |file| file.value().len() as u64);
        }
        let bytes = self.bytes()?.saturating_sub(freed);
        self.numbers.insert(BYTES, bytes)?;
        Ok(was_there)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::GenerateBody;

    fn entry(prompt: &str) -> Entry {
        Entry {
            timestamp: "2026-01-31T12:00:00Z".into(),
            media_type: "image/png".into(),
            bytes: 0,
            generation_time: 0.5,
            formatted_prompt: String::new(),
            parameters: GenerateBody { prompt: Some(prompt.into()), ..Default::default() },
        }
    }

    fn keep(store: &mut Store, prompt: &str, file: &[u8]) {
        let id = store.change(|tables| tables.next_id()).expect("reads");
        store.add(id, &entry(prompt), file).expect("kept");
    }

    fn ids(store: &mut Store) -> Vec<u64> {
        store.page(100, None).expect("reads").entries.into_iter().map(|(id, _)| id).collect()
    }

    #[test]
    fn pictures_survive_and_ids_are_never_used_twice() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut store = Store::open(folder.path(), 10, 1 << 20).expect("opens");
        assert!(matches!(Store::open(folder.path(), 10, 1 << 20), Err(StoreError::InUse { .. })));
        for prompt in ["a", "b", "c"] {
            keep(&mut store, prompt, prompt.as_bytes());
        }
        assert_eq!(store.delete(3).expect("deletes"), Some(2));
        assert_eq!(store.delete(3).expect("nothing to do"), None);
        drop(store);
        let mut store = Store::open(folder.path(), 10, 1 << 20).expect("opens again");
        assert_eq!(ids(&mut store), [2, 1]);
        let picture = store.picture(1).expect("reads").expect("is there");
        assert_eq!((&picture.file[..], &picture.media_type[..]), (&b"a"[..], "image/png"));
        assert!(store.picture(3).expect("reads").is_none());
        keep(&mut store, "d", b"d");
        assert_eq!(ids(&mut store), [4, 2, 1]);
        let page = store.page(1, Some(4)).expect("reads");
        assert_eq!((page.entries[0].0, page.entries.len(), page.total), (2, 1, 3));
        assert_eq!(store.clear().expect("clears"), 3);
        keep(&mut store, "e", b"e");
        assert_eq!(ids(&mut store), [5]);
    }

    #[test]
    fn the_oldest_go_first_by_number_and_by_bytes() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut store = Store::open(folder.path(), 3, 1000).expect("opens");
        for _ in 0..5 {
            keep(&mut store, "x", &[7; 100]);
        }
        assert_eq!(ids(&mut store), [5, 4, 3]);
        keep(&mut store, "x", &[7; 850]);
        assert_eq!(ids(&mut store), [6, 5], "850 + 100");
        keep(&mut store, "x", &[7; 2000]);
        assert_eq!(ids(&mut store), [] as [u64; 0]);
        for _ in 0..9 {
            keep(&mut store, "x", &[7; 10]);
        }
        drop(store);
        let mut store = Store::open(folder.path(), 1, 1000).expect("opens with tighter bounds");
        assert_eq!(ids(&mut store), [16]);
    }

    #[test]
    fn a_file_that_is_none_of_ours_is_named() {
        let folder = tempfile::tempdir().expect("a folder");
        fs::write(folder.path().join(FILE), b"something else entirely").expect("writes");
        let error = Store::open(folder.path(), 3, 1000).err().expect("refused").to_string();
        assert!(error.contains(FILE) && error.contains("--history"), "{error}");
    }
}
