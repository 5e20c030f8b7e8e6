//! What is in a cache.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use super::{Cache, RepoFolder};
use crate::{Commit, HubError, RepoName};

/// Folders inside folders that are looked into.
const MAX_DEPTH: usize = 16;

/// A repository in the cache.
#[derive(Clone, Debug)]
pub struct CachedRepo {
    pub repo: RepoName,
    /// Bytes of all contents on disk.
    pub bytes: u64,
    /// Bytes of downloads that were interrupted.
    pub incomplete: u64,
    /// Commits with their files, and the branches and tags that mean them.
    pub snapshots: Vec<CachedSnapshot>,
}

/// The files of a commit.
#[derive(Clone, Debug)]
pub struct CachedSnapshot {
    pub commit: Commit,
    pub revisions: Vec<String>,
    pub path: PathBuf,
    pub files: Vec<CachedFile>,
}

/// A file of a snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CachedFile {
    /// With `/` between its parts.
    pub name: String,
    /// `None` if its link leads nowhere.
    pub bytes: Option<u64>,
}

impl Cache {
    /// All repositories of models, by name. Other folders are passed over.
    ///
    /// # Errors
    ///
    /// [`HubError::Io`] if the cache cannot be read. A cache that does not exist is empty.
    pub fn contents(&self) -> Result<Vec<CachedRepo>, HubError> {
        let entries = match fs::read_dir(&self.root) {
            Ok(entries) => entries,
            Err(cause) if cause.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(cause) => return Err(HubError::Io { path: self.root.clone(), cause }),
        };
        let names = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok());
        let mut repos: Vec<RepoName> =
            names.filter_map(|name| RepoName::from_folder(&name)).collect();
        repos.sort();
        Ok(repos.into_iter().map(|repo| self.repo(&repo).contents(repo)).collect())
    }
}

impl RepoFolder {
    fn contents(&self, repo: RepoName) -> CachedRepo {
        let (mut bytes, mut incomplete) = (0, 0);
        for entry in fs::read_dir(self.root.join("blobs")).into_iter().flatten().flatten() {
            let length = entry.metadata().map_or(0, |file| file.len());
            let partial = entry.path().extension().is_some_and(|end| end == "incomplete");
            *(if partial { &mut incomplete } else { &mut bytes }) += length;
        }
        let mut revisions = BTreeMap::new();
        for file in files(&self.root.join("refs")) {
            let commit = fs::read_to_string(self.root.join("refs").join(&file.name));
            if let Some(commit) = commit.ok().and_then(|text| text.trim().parse::<Commit>().ok()) {
                revisions.entry(commit).or_insert_with(Vec::new).push(file.name);
            }
        }
        let mut snapshots: Vec<CachedSnapshot> = fs::read_dir(self.root.join("snapshots"))
            .into_iter()
            .flatten()
            .flatten()
            .filter_map(|entry| {
                let commit: Commit = entry.file_name().to_str()?.parse().ok()?;
                let path = entry.path();
                let revisions = revisions.remove(&commit).unwrap_or_default();
                let files = files(&path);
                Some(CachedSnapshot { commit, revisions, path, files })
            })
            .collect();
        snapshots.sort_by(|a, b| a.commit.cmp(&b.commit));
        CachedRepo { repo, bytes, incomplete, snapshots }
    }
}

/// The files below a folder, by name.
fn files(folder: &Path) -> Vec<CachedFile> {
    let mut found = Vec::new();
    collect(folder, "", 0, &mut found);
    found.sort_by(|a, b| a.name.cmp(&b.name));
    found
}

fn collect(folder: &Path, prefix: &str, depth: usize, found: &mut Vec<CachedFile>) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let Ok(name) = entry.file_name().into_string() else { continue };
        // Links to folders are not followed: a snapshot has links to files only.
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            if depth < MAX_DEPTH {
                collect(&entry.path(), &format!("{prefix}{name}/"), depth + 1, found);
            }
            continue;
        }
        let bytes = fs::metadata(entry.path()).ok().map(|file| file.len());
        found.push(CachedFile { name: format!("{prefix}{name}"), bytes });
    }
}
