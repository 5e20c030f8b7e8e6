//! What the hub says of one file: its size and its checksum.

use reqwest::{
    Method, Response,
    header::{CONTENT_LENGTH, ETAG, HeaderMap},
};

use crate::{
    Client, Commit, FileName, HubError, Progress, RepoName,
    checksum::Checksum,
    client::{Ask, Attempts, Redirects},
    listing::Listed,
};

/// A file as it will be downloaded.
#[derive(Clone, Debug)]
pub struct Metadata {
    pub checksum: Checksum,
    pub size: u64,
}

impl Client {
    /// Asks for a file's size and checksum, and compares them with what the list of files said.
    ///
    /// # Errors
    ///
    /// [`HubError`] if the hub refuses, has no checksum, or contradicts its list.
    pub(crate) async fn metadata(
        &self,
        repo: &RepoName,
        commit: &Commit,
        listed: &Listed,
        progress: &dyn Progress,
    ) -> Result<Metadata, HubError> {
        let what = format!("{repo}, {}", listed.name);
        let ask = Ask {
            method: Method::HEAD,
            url: self.file_url(repo, commit, &listed.name),
            headers: HeaderMap::new(),
            redirects: Redirects::Hub,
            repo,
            what: &what,
        };
        let mut attempts = Attempts::new(&what, self.retry(), progress);
        let response = loop {
            match self.ask(&ask).await {
                Ok(response) => break response,
                Err(trouble) => attempts.failed(self, trouble).await?,
            }
        };
        self.read_metadata(&response, commit, listed)
    }

    /// The URL of a file's content.
    pub(crate) fn file_url(
        &self,
        repo: &RepoName,
        commit: &Commit,
        name: &FileName,
    ) -> reqwest::Url {
        let parts = [repo.owner(), repo.name(), "resolve", commit.as_str()];
        self.url(parts.into_iter().chain(name.parts()))
    }

    fn read_metadata(
        &self,
        response: &Response,
        commit: &Commit,
        listed: &Listed,
    ) -> Result<Metadata, HubError> {
        let text = |name: &str| response.headers().get(name).and_then(|value| value.to_str().ok());
        let contradiction = |why: String| HubError::Contradiction {
            host: self.host().to_owned(),
            file: listed.name.to_string(),
            why,
        };
        if let Some(other) = text("x-repo-commit").filter(|other| *other != commit.as_str()) {
            let other: String = other.chars().take(80).collect();
            return Err(contradiction(format!("it belongs to commit {other}, not {commit}")));
        }
        let etag = text("x-linked-etag").or_else(|| text(ETAG.as_str()));
        let sent = etag.and_then(Checksum::from_etag);
        let checksum = match (sent, &listed.checksum) {
            (Some(sent), Some(listed)) if sent != *listed => {
                return Err(contradiction(format!(
                    "its checksum is {listed} in the list of files and {sent} at the file"
                )));
            }
            (Some(checksum), _) => checksum,
            (None, Some(checksum)) => checksum.clone(),
            (None, None) => {
                return Err(HubError::NoChecksum {
                    host: self.host().to_owned(),
                    file: listed.name.to_string(),
                    etag: etag.unwrap_or_default().chars().take(80).collect(),
                });
            }
        };
        // A redirect's own length is that of its page.
        let own = || text(CONTENT_LENGTH.as_str()).filter(|_| response.status().is_success());
        let sent = text("x-linked-size").or_else(own).and_then(|size| size.parse::<u64>().ok());
        let size = match (sent, listed.size) {
            (Some(sent), Some(listed)) if sent != listed => {
                return Err(contradiction(format!(
                    "it has {listed} bytes in the list of files and {sent} at the file"
                )));
            }
            (sent, listed_size) => sent.or(listed_size),
        };
        let size = size.ok_or_else(|| self.strange("the size of a file", listed.name.as_str()))?;
        Ok(Metadata { checksum, size })
    }
}
