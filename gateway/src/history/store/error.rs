//! Errors of the database.

use std::{io, path::PathBuf};

/// Why the history cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StoreError {
    #[error("the folder {path} cannot be created: {cause}")]
    Folder { path: PathBuf, cause: io::Error },
    #[error("{path} is in use by another gateway; give each its own folder with --history")]
    InUse { path: PathBuf },
    #[error(
        "{path} cannot be opened: {cause}; move its folder away to begin a new history, or choose another folder with --history"
    )]
    Open { path: PathBuf, cause: redb::Error },
    #[error(
        "{path} is damaged ({cause}); move its folder away to begin a new history, or choose another folder with --history"
    )]
    Damaged { path: PathBuf, cause: String },
    #[error("{0}")]
    Database(redb::Error),
    #[error("an entry cannot be read: {0}")]
    Entry(#[from] serde_json::Error),
}

impl StoreError {
    /// What to tell a caller when the disk is the cause; `None` for all else.
    pub fn room(&self) -> Option<String> {
        let (Self::Database(cause) | Self::Open { cause, .. }) = self else { return None };
        match cause {
            redb::Error::Io(cause) if cause.kind() == io::ErrorKind::StorageFull => {
                Some("the disk of the gateway's history is full; free some space".to_owned())
            }
            redb::Error::Io(cause) => Some(format!(
                "the disk of the gateway's history cannot be written or read: {cause}"
            )),
            redb::Error::PreviousIo => {
                Some("the disk of the gateway's history has failed".to_owned())
            }
            _ => None,
        }
    }
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
