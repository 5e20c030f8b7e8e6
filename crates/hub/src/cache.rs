//! The cache on disk, as Python's `huggingface_hub` lays it out:
//!
//! ```text
//! models--ORG--NAME/blobs/CHECKSUM              a file's content
//! models--ORG--NAME/blobs/CHECKSUM.incomplete   the beginning of one, to resume from
//! models--ORG--NAME/snapshots/COMMIT/PATH       a relative link to a blob
//! models--ORG--NAME/refs/REVISION               the commit of a branch or tag
//! .locks/models--ORG--NAME/CHECKSUM.lock        held while a blob is written
//! ```

mod contents;
mod link;
mod lock;
mod remove;
mod space;

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use crate::{Commit, FileName, HubError, RepoName, Revision, checksum::Checksum};

pub use contents::{CachedFile, CachedRepo, CachedSnapshot};
pub use lock::BlobLock;

/// A folder of downloaded repositories. It need not exist.
#[derive(Clone, Debug)]
pub struct Cache {
    root: PathBuf,
}

/// One repository's folder in it.
#[derive(Clone, Debug)]
pub struct RepoFolder {
    root: PathBuf,
    locks: PathBuf,
}

impl Cache {
    /// The cache in this folder.
    pub fn new(root: PathBuf) -> Self {
        Self { root }
    }

    /// The folder.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The repository's folder, which need not exist.
    pub fn repo(&self, repo: &RepoName) -> RepoFolder {
        let folder = repo.folder();
        RepoFolder { root: self.root.join(&folder), locks: self.root.join(".locks").join(folder) }
    }
}

impl RepoFolder {
    /// The folder.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The content with this checksum.
    pub fn blob(&self, checksum: &Checksum) -> PathBuf {
        self.root.join("blobs").join(checksum.digits())
    }

    /// The beginning of that content. Downloads that were interrupted leave it.
    pub fn incomplete(&self, checksum: &Checksum) -> PathBuf {
        self.root.join("blobs").join(format!("{}.incomplete", checksum.digits()))
    }

    /// The folder with the files of a commit.
    pub fn snapshot(&self, commit: &Commit) -> PathBuf {
        self.root.join("snapshots").join(commit.as_str())
    }

    /// The commit that a revision had when it was last downloaded.
    pub fn commit(&self, revision: &Revision) -> Option<Commit> {
        if let Some(commit) = revision.commit() {
            return Some(commit);
        }
        let text = fs::read_to_string(revision.below(&self.root.join("refs"))).ok()?;
        text.trim().parse().ok()
    }

    /// The folder with the revision's files, if there is one.
    pub fn find(&self, revision: &Revision) -> Option<PathBuf> {
        let snapshot = self.snapshot(&self.commit(revision)?);
        snapshot.is_dir().then_some(snapshot)
    }

    /// Remembers the commit of a branch or tag, in one step.
    ///
    /// # Errors
    ///
    /// [`HubError::Io`] if the file cannot be written.
    pub fn set_commit(&self, revision: &Revision, commit: &Commit) -> Result<(), HubError> {
        if revision.commit().is_some() || self.commit(revision).as_ref() == Some(commit) {
            return Ok(());
        }
        let path = revision.below(&self.root.join("refs"));
        create_parent(&path)?;
        let io = |cause| HubError::Io { path: path.clone(), cause };
        llm_dit_files::write(&path, commit.as_str().as_bytes())
            .map_err(|error| io(io::Error::other(error.to_string())))
    }

    /// Gives a content its name in a snapshot, in one step.
    ///
    /// # Errors
    ///
    /// [`HubError::Io`] if the link cannot be made.
    pub fn link(
        &self,
        commit: &Commit,
        name: &FileName,
        checksum: &Checksum,
    ) -> Result<PathBuf, HubError> {
        let pointer = name.below(&self.snapshot(commit));
        create_parent(&pointer)?;
        // Out of the folders of the name, the commit and `snapshots`.
        let up = "../".repeat(name.parts().count() + 1);
        let target = PathBuf::from(format!("{up}blobs/{}", checksum.digits()));
        link::link(&target, &self.blob(checksum), &pointer)
            .map_err(|cause| HubError::Io { path: pointer.clone(), cause })?;
        Ok(pointer)
    }
}

/// Makes the folder that a file is to be in.
fn create_parent(path: &Path) -> Result<(), HubError> {
    let parent = folder_of(path);
    fs::create_dir_all(parent).map_err(|cause| HubError::Io { path: parent.to_owned(), cause })
}

fn folder_of(path: &Path) -> &Path {
    path.parent().unwrap_or(Path::new("."))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_are_relative_and_a_cache_can_be_moved() {
        let room = tempfile::tempdir().expect("a folder");
        let cache = Cache::new(room.path().join("here"));
        let folder = cache.repo(&"a/b".parse().expect("a name"));
        let checksum = Checksum::from_etag(&"5".repeat(40)).expect("digits");
        let commit: Commit = "c".repeat(40).parse().expect("digits");
        let blob = folder.blob(&checksum);
        fs::create_dir_all(blob.parent().expect("blobs")).expect("made");
        fs::write(&blob, "content").expect("written");
        let main = Revision::default();
        assert_eq!(folder.find(&main), None);
        for name in ["a.json", "deep/er/b.json"] {
            let name = FileName::parse(name).expect("a name");
            for _ in 0..2 {
                folder.link(&commit, &name, &checksum).expect("linked");
            }
        }
        folder.set_commit(&main, &commit).expect("written");
        folder.set_commit(&"refs/pr/1".parse().expect("a ref"), &commit).expect("written");
        fs::rename(room.path().join("here"), room.path().join("there")).expect("moved");
        let folder = Cache::new(room.path().join("there")).repo(&"a/b".parse().expect("a name"));
        let snapshot = folder.find(&main).expect("there");
        assert_eq!(folder.find(&"refs/pr/1".parse().expect("a ref")), Some(snapshot.clone()));
        assert_eq!(fs::read(snapshot.join("deep/er/b.json")).expect("a link"), b"content");
        #[cfg(unix)]
        assert_eq!(
            fs::read_link(snapshot.join("deep/er/b.json")).expect("a link"),
            Path::new("../../../../blobs").join("5".repeat(40))
        );
    }
}
