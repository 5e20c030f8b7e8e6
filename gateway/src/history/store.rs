//! The database: entries, files and thumbnails by id, bounded in number and in bytes; and jobs.

mod contained;
mod error;
mod jobs;
mod slots;
mod tables;
mod upkeep;

use std::{
    collections::HashSet,
    fs, io,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::Bytes;
use parking_lot::Mutex;
use redb::{
    Database, ReadTransaction, ReadableDatabase as _, ReadableTableMetadata as _, StorageBackend,
    backends::FileBackend,
};

pub(crate) use self::error::StoreError;
use self::{
    contained::Contained,
    slots::JobSlots,
    tables::{ENTRIES, PICTURES, SETTINGS, THUMBNAILS, Tables},
    upkeep::panic_message,
};
use super::entry::{Entry, Page, Picture};

const FILE: &str = "history.redb";

/// Pages that the database holds in memory.
const CACHE_BYTES: usize = 16 * 1024 * 1024;

/// Opens the file anew.
type Open = Box<dyn Fn() -> Result<Database, StoreError> + Send>;

pub(crate) struct Store {
    /// `None` after the disk failed: what the database has in memory is then in doubt, so it is
    /// opened again, as after a crash.
    database: Option<Contained<Database>>,
    open: Open,
    path: PathBuf,
    trouble: Arc<Mutex<Option<String>>>,
    next_id: u64,
    jobs: JobSlots,
    /// Entries that cannot be read, each of which is logged once.
    damaged: HashSet<u64>,
    max_entries: u64,
    max_bytes: u64,
}

impl Store {
    /// Opens the database in a folder, or creates it. A file that a crash left incomplete is
    /// repaired.
    ///
    /// # Errors
    ///
    /// [`StoreError`] if the folder or the database cannot be opened.
    pub fn open(folder: &Path, max_entries: usize, max_bytes: u64) -> Result<Self, StoreError> {
        fs::create_dir_all(folder)
            .map_err(|cause| StoreError::Folder { path: folder.to_owned(), cause })?;
        Self::at(folder.join(FILE), max_entries, max_bytes, |backend| backend)
    }

    /// `around` may put something between the database and its file.
    fn at<B: StorageBackend>(
        path: PathBuf,
        max_entries: usize,
        max_bytes: u64,
        around: impl Fn(FileBackend) -> B + Send + 'static,
    ) -> Result<Self, StoreError> {
        let named = path.clone();
        let open = move || database(&path, &around);
        // The database's code may panic at a file that is not as it wrote it.
        let opened = catch_unwind(AssertUnwindSafe(|| {
            let mut store = Self {
                database: Some(Contained::new(open()?)),
                open: Box::new(open),
                path: named.clone(),
                trouble: Arc::default(),
                next_id: 1,
                jobs: JobSlots::default(),
                damaged: HashSet::new(),
                max_entries: max_entries as u64,
                max_bytes,
            };
            // Makes the tables; and the bounds may have become tighter.
            store.next_id = store.change(|tables| tables.next_id())?;
            store.recover_jobs()?;
            Ok(store)
        }));
        let damaged = |cause: String| StoreError::Damaged { path: named, cause };
        match opened {
            Ok(Err(StoreError::Database(error))) if !is_of_disk(&error) => {
                Err(damaged(error.to_string()))
            }
            Ok(opened) => opened,
            Err(panic) => Err(damaged(panic_message(&*panic))),
        }
    }

    /// The id that the first picture after opening gets.
    pub fn next_id(&self) -> u64 {
        self.next_id
    }

    /// Why the last change failed, until one succeeds.
    pub fn trouble(&self) -> Arc<Mutex<Option<String>>> {
        Arc::clone(&self.trouble)
    }

    /// Stores a picture, and removes the oldest ones beyond the bounds.
    ///
    /// # Errors
    ///
    /// [`StoreError`] if the database fails.
    pub fn add(&mut self, id: u64, entry: &Entry, file: &[u8]) -> Result<(), StoreError> {
        let json = serde_json::to_vec(entry)?;
        self.change(|tables| tables.keep(id, &json, file))
    }

    /// At most `limit` entries with ids below `before`, newest first. Entries that cannot be read are
    /// left out.
    ///
    /// # Errors
    ///
    /// [`StoreError`] if the database fails.
    pub fn page(&mut self, limit: usize, before: Option<u64>) -> Result<Page, StoreError> {
        let mut damaged = Vec::new();
        let page = self.read(|transaction| {
            let entries = transaction.open_table(ENTRIES)?;
            let mut page = Page { entries: Vec::new(), total: entries.len()? };
            for item in entries.range(..before.unwrap_or(u64::MAX))?.rev() {
                if page.entries.len() == limit {
                    break;
                }
                let (id, json) = item?;
                match serde_json::from_slice(json.value()) {
                    Ok(entry) => page.entries.push((id.value(), entry)),
                    Err(error) => damaged.push((id.value(), error)),
                }
            }
            Ok(page)
        })?;
        damaged.iter().for_each(|(id, error)| self.note_damaged(*id, error));
        Ok(page)
    }

    /// What is known of a picture; `None` if there is none of this id, or if it cannot be read.
    ///
    /// # Errors
    ///
    /// [`StoreError`] if the database fails.
    pub fn entry(&mut self, id: u64) -> Result<Option<Entry>, StoreError> {
        let entry = self.read(|transaction| {
            let json = transaction.open_table(ENTRIES)?.get(id)?;
            Ok(json.map(|json| serde_json::from_slice(json.value())).transpose())
        })?;
        Ok(entry.unwrap_or_else(|error| {
            self.note_damaged(id, &error);
            None
        }))
    }

    /// The file of a picture; `None` if there is none of this id.
    ///
    /// # Errors
    ///
    /// [`StoreError`] if the database fails.
    pub fn picture(&mut self, id: u64) -> Result<Option<Picture>, StoreError> {
        let Some(entry) = self.entry(id)? else { return Ok(None) };
        let Entry { media_type, parameters_omitted, .. } = entry;
        let file = self.read(|transaction| {
            let file = transaction.open_table(PICTURES)?.get(id)?;
            Ok(file.map(|file| Bytes::copy_from_slice(file.value())))
        })?;
        Ok(file.map(|file| Picture { file, media_type, parameters_omitted }))
    }

    /// A small JPEG of a picture, if one was stored.
    ///
    /// # Errors
    ///
    /// [`StoreError`] if the database fails.
    pub fn thumbnail(&mut self, id: u64) -> Result<Option<Bytes>, StoreError> {
        self.read(|transaction| {
            let known = transaction.open_table(THUMBNAILS)?.get(id)?;
            Ok(known.map(|known| Bytes::copy_from_slice(known.value())))
        })
    }

    /// Stores a small JPEG of a picture, unless there is one, or the picture was deleted.
    ///
    /// # Errors
    ///
    /// [`StoreError`] if the database fails.
    pub fn put_thumbnail(&mut self, id: u64, small: &[u8]) -> Result<(), StoreError> {
        self.change(|tables| tables.keep_thumbnail(id, small))
    }

    /// Deletes a picture. Returns how many are left; `None` if there was none of this id.
    ///
    /// # Errors
    ///
    /// [`StoreError`] if the database fails.
    pub fn delete(&mut self, id: u64) -> Result<Option<u64>, StoreError> {
        self.change(|tables| {
            let was_there = tables.remove(id)?;
            Ok(was_there.then_some(tables.entries.len()?))
        })
    }

    /// Deletes all pictures. Returns how many there were.
    ///
    /// # Errors
    ///
    /// [`StoreError`] if the database fails.
    pub fn clear(&mut self) -> Result<u64, StoreError> {
        self.change(|tables| tables.clear())
    }

    /// The JSON that [`Store::set`] stored under this name.
    ///
    /// # Errors
    ///
    /// [`StoreError`] if the database fails.
    pub fn setting(&mut self, name: &str) -> Result<Option<Vec<u8>>, StoreError> {
        self.read(|transaction| {
            let json = transaction.open_table(SETTINGS)?.get(name)?;
            Ok(json.map(|json| json.value().to_vec()))
        })
    }

    /// Stores JSON under a name, in place of what was there.
    ///
    /// # Errors
    ///
    /// [`StoreError`] if the database fails.
    pub fn set(&mut self, name: &str, json: &[u8]) -> Result<(), StoreError> {
        self.change(|tables| {
            tables.settings.insert(name, json)?;
            Ok(())
        })
    }

    fn note_damaged(&mut self, id: u64, error: &serde_json::Error) {
        if self.damaged.insert(id) {
            tracing::error!(id, %error, "skipped an entry of the history that cannot be read");
        }
    }

    /// Reads in one transaction. After an error the file is opened again, as after a crash.
    fn read<T>(
        &mut self,
        read: impl FnOnce(&ReadTransaction) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let begun = self.database()?.begin_read().map_err(StoreError::from);
        let done = begun.and_then(|transaction| read(&transaction));
        if done.is_err() {
            self.database = None;
        }
        done
    }

    fn database(&mut self) -> Result<&Database, StoreError> {
        if self.database.is_none() {
            self.database = Some(Contained::new((self.open)()?));
        }
        self.database.as_deref().ok_or(StoreError::Database(redb::Error::PreviousIo))
    }

    /// All of a change with what the bounds ask for, or nothing of it.
    fn change<T>(
        &mut self,
        change: impl FnOnce(&mut Tables<'_>) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let changed = self.try_change(change);
        let trouble = changed.as_ref().err().map(|error| {
            self.database = None;
            error.room().unwrap_or_else(|| error.to_string())
        });
        *self.trouble.lock() = trouble;
        changed
    }

    fn try_change<T>(
        &mut self,
        change: impl FnOnce(&mut Tables<'_>) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let (max_entries, max_bytes) = (self.max_entries, self.max_bytes);
        let transaction = Contained::new(self.database()?.begin_write()?);
        let result = {
            let mut tables = Tables::open(&transaction)?;
            let result = change(&mut tables)?;
            tables.trim(max_entries, max_bytes)?;
            result
        };
        transaction.into_inner().commit()?;
        Ok(result)
    }
}

/// Whether the disk is the cause, and not what is in the file.
fn is_of_disk(error: &redb::Error) -> bool {
    use io::ErrorKind as Kind;
    match error {
        redb::Error::Io(error) => !matches!(
            error.kind(),
            // Such as a file that ends early.
            Kind::UnexpectedEof | Kind::InvalidData | Kind::InvalidInput
        ),
        error => matches!(error, redb::Error::PreviousIo),
    }
}

fn database<B: StorageBackend>(
    path: &Path,
    around: &impl Fn(FileBackend) -> B,
) -> Result<Database, StoreError> {
    let failed = |error: redb::DatabaseError| match error {
        redb::DatabaseError::DatabaseAlreadyOpen => StoreError::InUse { path: path.to_owned() },
        other => StoreError::Open { path: path.to_owned(), cause: other.into() },
    };
    let file =
        fs::OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path);
    let file =
        file.map_err(|cause| StoreError::Open { path: path.to_owned(), cause: cause.into() });
    let backend = around(FileBackend::new(file?).map_err(failed)?);
    let mut builder = Database::builder();
    builder.set_cache_size(CACHE_BYTES);
    builder.create_with_backend(backend).map_err(failed)
}

#[cfg(test)]
mod tests;
