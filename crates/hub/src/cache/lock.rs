//! The lock of a blob. It is the same file, locked in the same way, as Python's.

use std::fs::{File, OpenOptions, TryLockError};

use super::{RepoFolder, create_parent};
use crate::{HubError, checksum::Checksum};

/// Held while a blob is written. The system releases it when the process ends, however it ends.
#[derive(Debug)]
pub struct BlobLock {
    _file: File,
}

impl RepoFolder {
    /// Waits for the lock of a blob; `waits` is called first if another process holds it.
    ///
    /// # Errors
    ///
    /// [`HubError::Io`] if the file cannot be made or locked.
    pub fn lock(&self, checksum: &Checksum, waits: impl FnOnce()) -> Result<BlobLock, HubError> {
        let path = self.locks.join(format!("{}.lock", checksum.digits()));
        create_parent(&path)?;
        let io = |cause| HubError::Io { path: path.clone(), cause };
        let file = OpenOptions::new().create(true).truncate(false).write(true).open(&path);
        let file = file.map_err(io)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                waits();
                file.lock().map_err(io)?;
            }
            Err(TryLockError::Error(cause)) => return Err(io(cause)),
        }
        Ok(BlobLock { _file: file })
    }

    /// Whether another process writes one of the repository's blobs.
    pub(super) fn is_locked(&self) -> bool {
        let Ok(entries) = std::fs::read_dir(&self.locks) else { return false };
        entries.flatten().any(|entry| {
            let file = OpenOptions::new().write(true).open(entry.path());
            file.is_ok_and(|file| matches!(file.try_lock(), Err(TryLockError::WouldBlock)))
        })
    }
}
