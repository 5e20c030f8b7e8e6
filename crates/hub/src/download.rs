//! One file: its beginning is kept when the connection ends, and it gets its name when its content
//! has the checksum that names it.

mod answer;
mod partial;

use std::{io, path::Path};

use futures::TryFutureExt as _;
use reqwest::{
    Method, Response,
    header::{HeaderMap, HeaderValue, IF_RANGE, RANGE},
};

use self::{
    answer::{Content, content, strong_etag},
    partial::{Partial, Receiver},
};
use crate::{
    Client, Commit, HubError, Progress, RepoName,
    cache::{BlobLock, RepoFolder},
    client::{Ask, Attempts, Redirects, Trouble},
    listing::Listed,
    metadata::Metadata,
};

/// Where a file comes from and where it goes.
pub struct Download<'a> {
    pub client: &'a Client,
    pub folder: &'a RepoFolder,
    pub repo: &'a RepoName,
    pub commit: &'a Commit,
    pub progress: &'a dyn Progress,
}

impl Download<'_> {
    /// Gives the file its name in the snapshot. What is in the cache is not downloaded again.
    ///
    /// # Errors
    ///
    /// [`HubError`] if the hub refuses, sends another content, or cannot be reached, or if the file
    /// cannot be written.
    pub async fn file(&self, listed: &Listed, metadata: &Metadata) -> Result<(), HubError> {
        let checksum = &metadata.checksum;
        let blob = self.folder.blob(checksum);
        if !is_whole(&blob, metadata.size) {
            let _lock = self.lock(listed, metadata).await?;
            // Whoever had the lock may have downloaded it.
            if is_whole(&blob, metadata.size) {
                self.progress.advance(metadata.size.saturating_sub(self.here(metadata)));
            } else {
                self.content(listed, metadata).await?;
            }
        }
        self.folder.link(self.commit, &listed.name, checksum)?;
        self.progress.file(&listed.name, metadata.size);
        Ok(())
    }

    /// Bytes of the file that are in the cache.
    pub fn here(&self, metadata: &Metadata) -> u64 {
        if is_whole(&self.folder.blob(&metadata.checksum), metadata.size) {
            return metadata.size;
        }
        let partial = self.folder.incomplete(&metadata.checksum);
        let length = partial.metadata().map_or(0, |file| file.len());
        if length > metadata.size { 0 } else { length }
    }

    async fn lock(&self, listed: &Listed, metadata: &Metadata) -> Result<BlobLock, HubError> {
        let (folder, checksum) = (self.folder.clone(), metadata.checksum.clone());
        let (says, hears) = tokio::sync::oneshot::channel();
        let lock = tokio::task::spawn_blocking(move || {
            folder.lock(&checksum, || {
                // Nobody hears it when the download was given up.
                let _ = says.send(());
            })
        });
        if hears.await.is_ok() {
            self.progress.waits(&listed.name);
        }
        lock.await.unwrap_or_else(|_| Err(stopped(self.folder.root())))
    }

    async fn content(&self, listed: &Listed, metadata: &Metadata) -> Result<(), HubError> {
        let Metadata { checksum, size } = metadata;
        let path = self.folder.incomplete(checksum);
        let io = |cause| HubError::Io { path: path.clone(), cause };
        let here = self.here(metadata);
        let (open, hasher) = (path.clone(), checksum.hasher(*size));
        let opened = blocking(move || Partial::open(&open, hasher, here)).map_err(io);
        let mut partial = opened.await?;
        let what = format!("{}, {}", self.repo, listed.name);
        let mut attempts = Attempts::new(&what, self.client.retry(), self.progress);
        let mut resumed = here > 0;
        let mut etag = None;
        loop {
            while partial.length() < *size {
                let (back, ended) =
                    self.attempt(listed, metadata, partial, &mut etag, &mut attempts).await?;
                partial = back;
                if let Err(trouble) = ended {
                    attempts.failed(self.client, trouble).await?;
                }
            }
            let finished = blocking(move || partial.finish()).await.map_err(io)?;
            if checksum.matches(finished) {
                break;
            }
            self.progress.retract(*size);
            if !resumed {
                std::fs::remove_file(&path).map_err(io)?;
                let (file, checksum) = (listed.name.to_string(), checksum.to_string());
                return Err(HubError::Checksum { file, checksum });
            }
            // The beginning may be what is damaged: once, all of it is downloaded again.
            (resumed, etag) = (false, None);
            let (open, hasher) = (path.clone(), checksum.hasher(*size));
            partial = blocking(move || Partial::open(&open, hasher, 0)).await.map_err(io)?;
        }
        let blob = self.folder.blob(checksum);
        std::fs::rename(&path, &blob).map_err(|cause| HubError::Io { path: blob.clone(), cause })
    }

    /// One request for what is missing. The beginning that has come is kept in every case.
    async fn attempt(
        &self,
        listed: &Listed,
        metadata: &Metadata,
        mut partial: Partial,
        etag: &mut Option<HeaderValue>,
        attempts: &mut Attempts<'_>,
    ) -> Result<(Partial, Result<(), Trouble>), HubError> {
        let at = partial.length();
        let response = match self.request(listed, at, etag.as_ref()).await {
            Ok(response) => response,
            Err(trouble) => return Ok((partial, Err(trouble))),
        };
        let size = metadata.size;
        let contradiction = |why: String| HubError::Contradiction {
            host: response.url().host_str().unwrap_or_default().to_owned(),
            file: listed.name.to_string(),
            why,
        };
        let anew = match content(&response, at, size, etag.as_ref()) {
            Content::Rest => false,
            Content::Whole => at > 0,
            // Nothing is asked for from here on but the whole file.
            Content::Other(why) if at > 0 => {
                *etag = None;
                let partial = self.restart(partial, metadata, at).await?;
                return Ok((partial, Err(Trouble::passing(why))));
            }
            Content::Other(why) => return Err(contradiction(why)),
        };
        if anew {
            partial = self.restart(partial, metadata, at).await?;
        }
        *etag = strong_etag(&response);
        let path = self.folder.incomplete(&metadata.checksum);
        let (partial, came) = self.receive(response, partial, size, attempts).await;
        let partial = partial.map_err(|cause| HubError::Io { path, cause })?;
        Ok((partial, came))
    }

    async fn request(
        &self,
        listed: &Listed,
        at: u64,
        etag: Option<&HeaderValue>,
    ) -> Result<Response, Trouble> {
        let mut headers = HeaderMap::new();
        if at > 0 {
            let range = HeaderValue::try_from(format!("bytes={at}-")).map_err(Trouble::passing)?;
            headers.insert(RANGE, range);
            if let Some(etag) = etag {
                headers.insert(IF_RANGE, etag.clone());
            }
        }
        let ask = Ask {
            method: Method::GET,
            url: self.client.file_url(self.repo, self.commit, &listed.name),
            headers,
            redirects: Redirects::All,
            repo: self.repo,
            what: listed.name.as_str(),
        };
        self.client.ask(&ask).await
    }

    /// An empty file in place of `at` bytes that are of no use.
    async fn restart(
        &self,
        partial: Partial,
        metadata: &Metadata,
        at: u64,
    ) -> Result<Partial, HubError> {
        drop(partial);
        self.progress.retract(at);
        let path = self.folder.incomplete(&metadata.checksum);
        let (open, hasher) = (path.clone(), metadata.checksum.hasher(metadata.size));
        let opened = blocking(move || Partial::open(&open, hasher, 0)).await;
        opened.map_err(|cause| HubError::Io { path, cause })
    }

    /// Hands the body on to the thread that writes and hashes, up to the file's size.
    async fn receive(
        &self,
        mut response: Response,
        partial: Partial,
        size: u64,
        attempts: &mut Attempts<'_>,
    ) -> (io::Result<Partial>, Result<(), Trouble>) {
        let (mut at, url) = (partial.length(), response.url().clone());
        let receiver = Receiver::start(partial);
        let came = loop {
            if at == size {
                break Ok(());
            }
            let chunk = match response.chunk().await {
                Ok(Some(chunk)) => chunk,
                Ok(None) => break Err(Trouble::passing(format!("{at} of {size} bytes came"))),
                Err(error) => break Err(Trouble::lost(&url, &error)),
            };
            // What comes after the last byte is not part of the file; the checksum decides.
            let bytes = (chunk.len() as u64).min(size - at);
            let chunk = chunk.slice(..usize::try_from(bytes).unwrap_or(chunk.len()));
            if !receiver.send(chunk).await {
                break Err(Trouble::passing("the file cannot be written"));
            }
            at += bytes;
            self.progress.advance(bytes);
            attempts.moved(bytes);
        };
        (receiver.end().await, came)
    }
}

fn is_whole(path: &Path, size: u64) -> bool {
    path.metadata().is_ok_and(|file| file.is_file() && file.len() == size)
}

/// Work on a file, beside the network's.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|_| Err(io::Error::other("the work was ended")))
}

fn stopped(path: &Path) -> HubError {
    HubError::Io { path: path.to_owned(), cause: io::Error::other("the work was ended") }
}
