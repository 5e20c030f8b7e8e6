//! The whole of a download: what a revision is, which of its files are wanted, and all of them.

use std::{collections::HashSet, path::PathBuf};

use futures::{StreamExt as _, TryStreamExt as _, stream};

use crate::{
    Cache, Client, Commit, FileName, HubError, Progress, RepoSpec, download::Download,
    listing::Listed, metadata::Metadata, select::select,
};

/// Files that are downloaded at once.
const FILES: usize = 4;
/// Files that are asked about at once.
const QUESTIONS: usize = 8;

/// What is in the cache now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pulled {
    pub commit: Commit,
    /// The folder with the files.
    pub path: PathBuf,
    pub files: Vec<PulledFile>,
}

/// One of the files that were asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PulledFile {
    pub name: FileName,
    pub path: PathBuf,
    pub bytes: u64,
}

/// Downloads files of a repository into the cache: those that `patterns` name, or what this program
/// reads. The revision means the new commit once all of them are there.
///
/// # Errors
///
/// [`HubError`] if the hub refuses, cannot be reached or sends something else, or if the cache cannot
/// be written.
pub async fn pull(
    client: &Client,
    cache: &Cache,
    spec: &RepoSpec,
    patterns: &[String],
    progress: &dyn Progress,
) -> Result<Pulled, HubError> {
    let listing = client.listing(spec, progress).await?;
    let chosen = select(spec, &listing.files, patterns)?;
    let (commit, folder) = (&listing.commit, cache.repo(&spec.repo));
    let ask = |listed: Listed| async move {
        let metadata = client.metadata(&spec.repo, commit, &listed, progress).await?;
        Ok::<_, HubError>((listed, metadata))
    };
    let files: Vec<(Listed, Metadata)> =
        stream::iter(chosen).map(ask).buffered(QUESTIONS).try_collect().await?;

    let download = Download { client, folder: &folder, repo: &spec.repo, commit, progress };
    // Files with the same content are one blob.
    let mut seen = HashSet::new();
    let blobs = || files.iter().map(|(_, metadata)| metadata);
    let mut first = blobs().filter(|metadata| seen.insert(metadata.checksum.clone()));
    let (bytes, here) = first.by_ref().fold((0, 0), |(bytes, here), metadata| {
        (bytes + metadata.size, here + download.here(metadata))
    });
    folder.check_space(bytes - here)?;
    progress.begin(files.len(), bytes, here);
    stream::iter(&files)
        .map(|(listed, metadata)| download.file(listed, metadata))
        .buffer_unordered(FILES)
        .try_collect::<()>()
        .await?;
    folder.set_commit(&spec.revision, commit)?;
    let path = folder.snapshot(commit);
    let files = files.into_iter().map(|(listed, metadata)| PulledFile {
        path: listed.name.below(&path),
        name: listed.name,
        bytes: metadata.size,
    });
    Ok(Pulled { commit: listing.commit.clone(), files: files.collect(), path })
}

/// What the cache has of a repository, without a connection. Patterns must be names.
///
/// # Errors
///
/// [`HubError::Offline`] if the revision or a file is not there.
pub fn cached(cache: &Cache, spec: &RepoSpec, patterns: &[String]) -> Result<Pulled, HubError> {
    let offline = || HubError::Offline { spec: spec.clone(), cache: cache.root().to_owned() };
    let folder = cache.repo(&spec.repo);
    let commit = folder.commit(&spec.revision).ok_or_else(offline)?;
    let path = folder.find(&spec.revision).ok_or_else(offline)?;
    let one = |pattern: &String| {
        let name = FileName::parse(pattern).map_err(|_| offline())?;
        let file = name.below(&path);
        let bytes = file.metadata().map_err(|_| offline())?.len();
        Ok(PulledFile { name, path: file, bytes })
    };
    let files = patterns.iter().map(one).collect::<Result<_, HubError>>()?;
    Ok(Pulled { commit, path, files })
}
