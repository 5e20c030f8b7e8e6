//! The folder that callers from the network may choose LoRAs from, and nothing beside it.
//!
//! Links are followed wherever they lead: who may put one there decides what callers may choose.
//! Downloads of the Hugging Face hub are folders of links.

use std::{
    fs,
    path::{Component, Path, PathBuf},
};

use llm_dit_engine::image::{InspectLora, LoraSummary};

/// Folders inside folders that are looked into.
const MAX_DEPTH: usize = 4;
/// Files that are listed; a folder of more is not one of LoRAs.
const MAX_FILES: usize = 10_000;

/// `--loras-dir`, found and made absolute.
#[derive(Clone, Debug)]
pub struct LorasFolder {
    root: PathBuf,
}

/// Why a folder of LoRAs, or a file in it, cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum LorasFolderError {
    #[error("cannot open --loras-dir {path}: {cause}")]
    Open { path: PathBuf, cause: std::io::Error },
    #[error("--loras-dir {path} is not a folder")]
    NotAFolder { path: PathBuf },
    #[error("'{0}' must be a path inside the LoRA folder, such as 'styles/ink.safetensors'")]
    Outside(String),
    #[error("no LoRA '{0}' in the LoRA folder; ListLoras lists its files")]
    NotFound(String),
}

impl LorasFolder {
    /// Opens a folder.
    ///
    /// # Errors
    ///
    /// [`LorasFolderError`] if the path does not exist or is not a folder.
    pub fn open(path: &Path) -> Result<Self, LorasFolderError> {
        let failed = |cause| LorasFolderError::Open { path: path.to_owned(), cause };
        let root = path.canonicalize().map_err(failed)?;
        if root.is_dir() {
            Ok(Self { root })
        } else {
            Err(LorasFolderError::NotAFolder { path: path.to_owned() })
        }
    }

    /// The file of this name. A name leads out of the folder only through a link in it.
    ///
    /// # Errors
    ///
    /// [`LorasFolderError`] if the name leads out of the folder, or if there is no such file.
    pub fn find(&self, name: &str) -> Result<PathBuf, LorasFolderError> {
        let mut components = Path::new(name).components();
        let inside = !name.is_empty() && components.all(|c| matches!(c, Component::Normal(_)));
        if !inside {
            return Err(LorasFolderError::Outside(name.to_owned()));
        }
        // A NUL in the name, a missing folder and a missing file are all the same to the caller.
        let path = self.root.join(name).canonicalize();
        path.ok()
            .filter(|path| path.is_file())
            .ok_or_else(|| LorasFolderError::NotFound(name.to_owned()))
    }

    /// All safetensors files, by name. `inspect` reads their headers.
    pub fn list(&self, inspect: &InspectLora) -> Vec<LoraSummary> {
        let mut names = Vec::new();
        collect(std::slice::from_ref(&self.root), "", &mut names);
        names.sort();
        // A link that leads nowhere is listed too, with that as its problem.
        names.into_iter().map(|name| inspect(&self.root.join(&name), name)).collect()
    }
}

/// The files below the last of `folders`, which lies in the others. A link back to one of them is
/// not followed.
fn collect(folders: &[PathBuf], prefix: &str, names: &mut Vec<String>) {
    let Some(folder) = folders.last() else { return };
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) => {
            tracing::warn!(%error, folder = %folder.display(), "cannot read a LoRA folder");
            return;
        }
    };
    for entry in entries.flatten() {
        let Ok(file) = entry.file_name().into_string() else { continue };
        if names.len() >= MAX_FILES {
            tracing::warn!(MAX_FILES, "the LoRA folder has too many files; some are not listed");
            return;
        }
        let path = entry.path();
        if !path.is_dir() {
            if file.ends_with(".safetensors") {
                names.push(format!("{prefix}{file}"));
            }
        } else if folders.len() <= MAX_DEPTH
            && let Ok(inner) = path.canonicalize()
            && !folders.contains(&inner)
        {
            collect(&[folders, &[inner]].concat(), &format!("{prefix}{file}/"), names);
        }
    }
}
