//! Names of repositories, revisions and commits.

use std::{
    fmt,
    path::{Path, PathBuf},
    str::FromStr,
};

use crate::FileName;

/// As the hub limits it, for owner and name together.
const MAX_NAME: usize = 96;
/// What a download means when it names none.
const DEFAULT_REVISION: &str = "main";

/// `ORG/NAME`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RepoName {
    owner: String,
    name: String,
}

/// A branch, a tag, a commit or another ref, such as `refs/pr/3`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Revision(String);

/// The full name of a commit: 40 hexadecimal digits.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Commit(String);

/// `ORG/NAME` or `ORG/NAME@REVISION`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RepoSpec {
    pub repo: RepoName,
    pub revision: Revision,
}

/// Why a text names no repository.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadName {
    #[error("'{0}' is not a repository; write it as ORG/NAME or ORG/NAME@REVISION")]
    Repo(String),
    #[error("'{name}' is not a revision: {why}")]
    Revision { name: String, why: &'static str },
}

impl RepoName {
    /// The account that it belongs to.
    pub fn owner(&self) -> &str {
        &self.owner
    }

    /// Its name in that account.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The name of its folder in a cache.
    pub fn folder(&self) -> String {
        format!("models--{}--{}", self.owner, self.name)
    }

    /// The repository of such a folder.
    pub fn from_folder(folder: &str) -> Option<Self> {
        let (owner, name) = folder.strip_prefix("models--")?.split_once("--")?;
        format!("{owner}/{name}").parse().ok()
    }
}

impl FromStr for RepoName {
    type Err = BadName;

    fn from_str(text: &str) -> Result<Self, BadName> {
        let bad = || BadName::Repo(text.to_owned());
        let (owner, name) = text.split_once('/').ok_or_else(bad)?;
        let fits = |part: &str| {
            FileName::parse(part).is_ok()
                && part.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
                && !part.starts_with(['-', '.'])
                && !part.ends_with(['-', '.'])
                && !part.contains("--")
                && !part.contains("..")
        };
        if text.len() > MAX_NAME || !fits(owner) || !fits(name) {
            return Err(bad());
        }
        Ok(Self { owner: owner.to_owned(), name: name.to_owned() })
    }
}

impl fmt::Display for RepoName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.owner, self.name)
    }
}

impl Revision {
    /// As it is written.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Its file below the folder of refs.
    pub fn below(&self, folder: &Path) -> PathBuf {
        self.0.split('/').fold(folder.to_owned(), |path, part| path.join(part))
    }

    /// The commit, if that is what it names.
    pub fn commit(&self) -> Option<Commit> {
        self.as_str().parse().ok()
    }

    /// Whether it is what is meant when none is named.
    pub fn is_default(&self) -> bool {
        self.as_str() == DEFAULT_REVISION
    }
}

impl Default for Revision {
    fn default() -> Self {
        Self(DEFAULT_REVISION.to_owned())
    }
}

impl FromStr for Revision {
    type Err = BadName;

    fn from_str(text: &str) -> Result<Self, BadName> {
        let bad = |why| BadName::Revision { name: text.to_owned(), why };
        FileName::parse(text).map_err(bad)?;
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Commit {
    /// The digits.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Commit {
    type Err = BadName;

    fn from_str(text: &str) -> Result<Self, BadName> {
        let digits = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
        if text.len() == 40 && text.bytes().all(digits) {
            return Ok(Self(text.to_owned()));
        }
        Err(BadName::Revision { name: text.to_owned(), why: "a commit has 40 hexadecimal digits" })
    }
}

impl fmt::Display for Commit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for RepoSpec {
    type Err = BadName;

    fn from_str(text: &str) -> Result<Self, BadName> {
        let (repo, revision) = match text.split_once('@') {
            Some((repo, revision)) => (repo, revision.parse()?),
            None => (text, Revision::default()),
        };
        Ok(Self { repo: repo.parse()?, revision })
    }
}

impl fmt::Display for RepoSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.repo.fmt(f)?;
        if self.revision.is_default() { Ok(()) } else { write!(f, "@{}", self.revision) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repositories_and_revisions_are_read() {
        let spec: RepoSpec = "Tongyi-MAI/Z-Image-Turbo".parse().expect("a repository");
        assert_eq!(spec.repo.folder(), "models--Tongyi-MAI--Z-Image-Turbo");
        assert_eq!(RepoName::from_folder(&spec.repo.folder()), Some(spec.repo.clone()));
        assert!(spec.revision.is_default());
        assert_eq!(spec.to_string(), "Tongyi-MAI/Z-Image-Turbo");
        let spec: RepoSpec = "a/b@refs/pr/3".parse().expect("a revision");
        assert_eq!(spec.revision.as_str(), "refs/pr/3");
        assert_eq!(spec.to_string(), "a/b@refs/pr/3");
        let commit = "0123456789abcdef0123456789abcdef01234567";
        let spec: RepoSpec = format!("a/b@{commit}").parse().expect("a commit");
        assert_eq!(spec.revision.commit().expect("one").as_str(), commit);
        for wrong in [
            "", "a", "/", "a/", "/b", "a/b/c", "../b", "a/..", "a/b@", "a/b@..", "a/b@../x",
            "a--b/c", "-a/b", "a/b.", "a b/c", "~/models", "./models", "a/b@/x", "con/b",
        ] {
            assert!(wrong.parse::<RepoSpec>().is_err(), "{wrong:?}");
        }
        for folder in ["models--a", "datasets--a--b", "models--a--b--c", "models--..--b", "x"] {
            assert_eq!(RepoName::from_folder(folder), None, "{folder}");
        }
    }
}
