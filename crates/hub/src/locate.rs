//! From what a person calls a model to its files on this machine. Nothing here connects.

use std::path::{Path, PathBuf};

use crate::{Cache, FileName, RepoName, RepoSpec, Revision};

/// Ends of names of files. A path with one of them names no repository.
const FILE_ENDS: [&str; 6] = [".safetensors", ".gguf", ".json", ".bin", ".pt", ".ckpt"];

/// A name of a repository whose files are not in the cache.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "there is no {} here, and no such model in the cache {}; to download it: {command}",
    .path.display(), .cache.display()
)]
pub struct NotCached {
    path: PathBuf,
    cache: PathBuf,
    command: String,
}

/// A repository, and the file in it.
type Named = (RepoSpec, Option<FileName>);

/// The path itself if there is something; else the files of the repository that it names, as
/// `ORG/NAME`, `ORG/NAME@REVISION` or with `/FILE` after either. A path that can name none is
/// returned as it is.
///
/// # Errors
///
/// [`NotCached`] if the cache does not have what it names.
pub fn locate(path: &Path, cache: &Cache) -> Result<PathBuf, NotCached> {
    if path.exists() {
        return Ok(path.to_owned());
    }
    let readings = readings(path);
    for (spec, file) in &readings {
        let found = cache.repo(&spec.repo).find(&spec.revision);
        let found = found.map(|folder| match file {
            Some(name) => name.below(&folder),
            None => folder,
        });
        if let Some(found) = found.filter(|path| path.exists()) {
            return Ok(found);
        }
    }
    match readings.into_iter().next() {
        Some((spec, file)) => {
            let file = file.map_or_else(String::new, |name| format!(" --file '{name}'"));
            let command = format!("llm-dit pull {spec}{file}");
            Err(NotCached { path: path.to_owned(), cache: cache.root().to_owned(), command })
        }
        None => Ok(path.to_owned()),
    }
}

/// What a path can mean, the likeliest first. A revision may have slashes, as a file may.
fn readings(path: &Path) -> Vec<Named> {
    let Some(text) = path.to_str() else { return Vec::new() };
    let is_file = |name: &str| FILE_ENDS.iter().any(|end| name.ends_with(end));
    let mut parts = text.splitn(3, '/');
    let (Some(owner), Some(name)) = (parts.next(), parts.next()) else { return Vec::new() };
    let rest = parts.next();
    if let Some((name, revision)) = name.split_once('@') {
        let Ok(repo) = format!("{owner}/{name}").parse::<RepoName>() else { return Vec::new() };
        let whole = rest.map_or_else(|| revision.to_owned(), |rest| format!("{revision}/{rest}"));
        let cut = |at: usize| (&whole[..at], Some(&whole[at + 1..]));
        let cuts = whole.match_indices('/').map(|(at, _)| cut(at));
        let named = |(revision, file): (&str, Option<&str>)| {
            let revision: Revision = revision.parse().ok()?;
            let file = file.map(FileName::parse).transpose().ok()?;
            Some((RepoSpec { repo: repo.clone(), revision }, file))
        };
        let all = std::iter::once((whole.as_str(), None));
        return match is_file(&whole) {
            true => cuts.filter_map(named).collect(),
            false => all.chain(cuts).filter_map(named).collect(),
        };
    }
    let repo = format!("{owner}/{name}").parse::<RepoName>();
    let file = rest.map(FileName::parse).transpose();
    match (repo, file) {
        (Ok(repo), Ok(file)) if file.is_some() || !is_file(name) => {
            vec![(RepoSpec { repo, revision: Revision::default() }, file)]
        }
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_name_means_the_cache_and_says_how_to_fill_it() {
        let room = tempfile::tempdir().expect("a folder");
        let cache = Cache::new(room.path().join("hub"));
        let repo = cache.repo(&"nobody/model".parse().expect("a name"));
        let find = |text: &str| locate(Path::new(text), &cache);
        for (text, command) in [
            ("nobody/model", "llm-dit pull nobody/model"),
            ("nobody/model@v1", "llm-dit pull nobody/model@v1"),
            ("nobody/model/vae/ae.safetensors", "nobody/model --file 'vae/ae.safetensors'"),
            ("nobody/model@v1/a.gguf", "llm-dit pull nobody/model@v1 --file 'a.gguf'"),
        ] {
            let error = find(text).expect_err(text).to_string();
            assert!(error.ends_with(command), "{error}");
        }
        let commit = "c".repeat(40);
        let snapshot = repo.root().join("snapshots").join(&commit);
        fs::create_dir_all(snapshot.join("vae")).expect("made");
        fs::write(snapshot.join("vae/ae.safetensors"), "x").expect("written");
        fs::create_dir_all(repo.root().join("refs/pr")).expect("made");
        for name in ["main", "pr/3"] {
            fs::write(repo.root().join("refs").join(name), &commit).expect("written");
        }
        for text in ["nobody/model", "nobody/model@pr/3", &format!("nobody/model@{commit}")] {
            assert_eq!(find(text), Ok(snapshot.clone()), "{text}");
        }
        let file = snapshot.join("vae/ae.safetensors");
        assert_eq!(find("nobody/model/vae/ae.safetensors"), Ok(file.clone()));
        assert_eq!(find("nobody/model@pr/3/vae/ae.safetensors"), Ok(file));
        assert!(find("nobody/model/vae/other.safetensors").is_err());
        assert!(find("nobody/model@v2").is_err());
    }

    #[test]
    fn other_paths_stay_as_they_are() {
        let cache = Cache::new("/nowhere".into());
        for text in [
            "x",
            "/a/b",
            "./a/b",
            "../a/b",
            "~/a/b",
            "a/b.safetensors",
            "a/../b",
            "a//b",
            "",
            "src",
        ] {
            assert_eq!(locate(Path::new(text), &cache), Ok(text.into()), "{text}");
        }
    }
}
