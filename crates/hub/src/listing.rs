//! The files of a revision.

use reqwest::{Method, header::HeaderMap};
use serde::Deserialize;

use crate::{
    Client, Commit, FileName, HubError, Progress, RepoSpec,
    checksum::Checksum,
    client::{Ask, Attempts, Redirects},
};

/// More files than any repository of one model has.
const MAX_FILES: usize = 100_000;

/// What a revision means now.
#[derive(Debug)]
pub struct Listing {
    pub commit: Commit,
    pub files: Vec<Entry>,
}

/// A file of the list. Its name is checked only when the file is to be downloaded.
#[derive(Clone, Debug)]
pub struct Entry {
    pub name: String,
    pub size: Option<u64>,
    checksum: Option<Checksum>,
}

/// A file whose name is one.
#[derive(Clone, Debug)]
pub struct Listed {
    pub name: FileName,
    /// Mirrors may leave out both.
    pub size: Option<u64>,
    pub checksum: Option<Checksum>,
}

/// The hub's JSON. It has more fields than are read here, and gets new ones.
#[derive(Deserialize)]
struct Info {
    sha: String,
    siblings: Vec<Sibling>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Sibling {
    rfilename: String,
    size: Option<u64>,
    blob_id: Option<String>,
    lfs: Option<Lfs>,
}

#[derive(Deserialize)]
struct Lfs {
    #[serde(alias = "oid")]
    sha256: Option<String>,
    size: Option<u64>,
}

impl Client {
    /// Asks for the commit and the files of a revision.
    ///
    /// # Errors
    ///
    /// [`HubError`] if the hub refuses, cannot be reached, or answers with something else.
    pub(crate) async fn listing(
        &self,
        spec: &RepoSpec,
        progress: &dyn Progress,
    ) -> Result<Listing, HubError> {
        let RepoSpec { repo, revision } = spec;
        let mut url =
            self.url(["api", "models", repo.owner(), repo.name(), "revision", revision.as_str()]);
        url.set_query(Some("blobs=true"));
        let ask = Ask {
            method: Method::GET,
            url,
            headers: HeaderMap::new(),
            redirects: Redirects::Hub,
            repo,
            what: revision.as_str(),
        };
        let what = format!("the list of files of {spec}");
        let body = self.json(&ask, Attempts::new(&what, self.retry(), progress)).await?;
        let info: Info =
            serde_json::from_slice(&body).map_err(|error| self.strange(&what, error))?;
        let commit = info.sha.parse().map_err(|error| self.strange(&what, error))?;
        if revision.commit().is_some_and(|asked| asked != commit) {
            return Err(self.strange(&what, format_args!("it is about commit {commit}")));
        }
        if info.siblings.len() > MAX_FILES {
            return Err(self.strange(&what, format_args!("it has more than {MAX_FILES} files")));
        }
        Ok(Listing { commit, files: info.siblings.into_iter().map(Entry::from).collect() })
    }
}

impl From<Sibling> for Entry {
    fn from(sibling: Sibling) -> Self {
        let Sibling { rfilename, size, blob_id, lfs } = sibling;
        let (digits, size) = match lfs {
            Some(lfs) => (lfs.sha256, lfs.size.or(size)),
            None => (blob_id, size),
        };
        let checksum = digits.as_deref().and_then(Checksum::from_etag);
        Self { name: rfilename, size, checksum }
    }
}

impl Entry {
    /// The name, if it can be shown.
    pub fn listed_name(&self) -> Option<&str> {
        FileName::parse(&self.name).is_ok().then_some(self.name.as_str())
    }

    /// Of no known size.
    #[cfg(test)]
    pub fn named(name: &str) -> Self {
        Self { name: name.to_owned(), size: None, checksum: None }
    }

    /// Checks the name.
    ///
    /// # Errors
    ///
    /// [`HubError::FileName`] if it cannot be a file's name here.
    pub fn listed(&self, spec: &RepoSpec) -> Result<Listed, HubError> {
        let name = FileName::parse(&self.name).map_err(|why| HubError::FileName {
            repo: spec.repo.clone(),
            name: self.name.chars().take(200).collect(),
            why,
        })?;
        Ok(Listed { name, size: self.size, checksum: self.checksum.clone() })
    }
}
