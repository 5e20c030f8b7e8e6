//! Free space of the cache's disk.

use std::path::Path;

use super::RepoFolder;
use crate::HubError;

impl RepoFolder {
    /// Checks, before a download of so many bytes, that the disk has room for them.
    ///
    /// # Errors
    ///
    /// [`HubError::NoSpace`] if it has not. A disk that does not tell is taken to have room.
    pub fn check_space(&self, needed: u64) -> Result<(), HubError> {
        // The folder need not exist yet; the one that it will be made in does.
        let Some(path) = self.root.ancestors().find(|path| path.is_dir()) else { return Ok(()) };
        match free_space(path) {
            Some(free) if free < needed => {
                Err(HubError::NoSpace { path: path.to_owned(), needed, free })
            }
            _ => Ok(()),
        }
    }
}

/// Bytes that this user may still write there.
#[cfg(unix)]
fn free_space(path: &Path) -> Option<u64> {
    let disk = rustix::fs::statvfs(path).ok()?;
    disk.f_bavail.checked_mul(disk.f_frsize)
}

#[cfg(not(unix))]
fn free_space(_: &Path) -> Option<u64> {
    None
}

#[cfg(all(test, unix))]
mod tests {
    use crate::{Cache, HubError, RepoName};

    #[test]
    fn a_download_that_is_larger_than_the_disk_is_refused() {
        let room = tempfile::tempdir().expect("a folder");
        let cache = Cache::new(room.path().join("not/yet"));
        let repo: RepoName = "some/model".parse().expect("a name");
        let folder = cache.repo(&repo);
        folder.check_space(1).expect("room for a byte");
        let error = folder.check_space(u64::MAX).expect_err("no disk is as large");
        assert!(matches!(&error, HubError::NoSpace { path, .. } if path == room.path()), "{error}");
        assert!(error.to_string().contains("--hf-hub-cache"), "{error}");
    }
}
