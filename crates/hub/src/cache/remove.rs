//! Removing a repository.

use std::{fs, io};

use super::Cache;
use crate::{HubError, RepoName};

impl Cache {
    /// Removes a repository: contents, snapshots, refs, interrupted downloads and locks. First it
    /// gets another name, so that nobody finds half of it.
    ///
    /// # Errors
    ///
    /// [`HubError`] if it is not in the cache, is being downloaded, or cannot be removed.
    pub fn remove(&self, repo: &RepoName) -> Result<(), HubError> {
        let folder = self.repo(repo);
        if !folder.root().is_dir() {
            return Err(HubError::NotInCache(repo.clone()));
        }
        if folder.is_locked() {
            return Err(HubError::InUse(repo.clone()));
        }
        let io = |cause| HubError::Io { path: folder.root().to_owned(), cause };
        let trash = tempfile::Builder::new().prefix(".llm-dit-removed-").tempdir_in(self.root());
        let trash = trash.map_err(io)?;
        fs::rename(folder.root(), trash.path().join(repo.folder())).map_err(io)?;
        trash.close().map_err(io)?;
        match fs::remove_dir_all(&folder.locks) {
            Err(cause) if cause.kind() != io::ErrorKind::NotFound => Err(io(cause)),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checksum::Checksum;

    #[test]
    fn a_repository_goes_whole_and_not_while_it_is_downloaded() {
        let room = tempfile::tempdir().expect("a folder");
        let cache = Cache::new(room.path().to_owned());
        let repo: RepoName = "a/b".parse().expect("a name");
        assert!(matches!(cache.remove(&repo), Err(HubError::NotInCache(_))));
        let folder = cache.repo(&repo);
        fs::create_dir_all(folder.root().join("blobs")).expect("made");
        fs::write(folder.root().join("blobs/x.incomplete"), [0; 10]).expect("written");
        let checksum = Checksum::from_etag(&"5".repeat(40)).expect("digits");
        let lock = folder.lock(&checksum, || {}).expect("locked");
        assert!(matches!(cache.remove(&repo), Err(HubError::InUse(_))));
        drop(lock);
        let contents = cache.contents().expect("readable");
        assert_eq!((contents[0].bytes, contents[0].incomplete), (0, 10));
        cache.remove(&repo).expect("removed");
        let left: Vec<_> = fs::read_dir(room.path()).expect("readable").flatten().collect();
        assert!(left.iter().all(|entry| entry.file_name() == ".locks"), "{left:?}");
        assert!(cache.contents().expect("readable").is_empty());
    }
}
