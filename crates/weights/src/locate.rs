//! Finds the model folder: the one that is named, or the demo model.

use std::{
    env,
    path::{Path, PathBuf},
};

use crate::LoadError;

/// The folder that ships with the repository.
const DEMO: &str = "models/demo";

/// `named`, if it is a model; else the demo model in the working tree, beside the executable, in
/// the data folder, or inside the binary (cargo feature `embed-demo-model`).
///
/// # Errors
///
/// [`LoadError`] if `named` is not a model's folder, or if no demo model is found.
pub fn model_folder(named: Option<&Path>) -> Result<PathBuf, LoadError> {
    if let Some(path) = named {
        return check(path);
    }
    let candidates = candidates();
    if let Some(found) = candidates.iter().find(|p| p.join("model_index.json").is_file()) {
        return Ok(found.clone());
    }
    #[cfg(feature = "embed-demo-model")]
    if let Some(data) = data_folder() {
        return crate::embedded::unpack(&data.join("models"));
    }
    let looked: Vec<String> = candidates.iter().map(|p| p.display().to_string()).collect();
    Err(LoadError::NoDemoModel(format!(
        "no --model-path given and the demo model is in none of: {}",
        looked.join(", ")
    )))
}

/// [`model_folder`] for a program that encodes. What belongs to a text encoder that is named alone is
/// looked for beside it; the demo model's tokenizer would cut the text into other tokens.
///
/// # Errors
///
/// As [`model_folder`].
pub fn encoder_folder(
    named: Option<&Path>,
    text_encoder: Option<&Path>,
) -> Result<PathBuf, LoadError> {
    match (named, text_encoder) {
        (None, Some(file)) => Ok(folder_of(file)),
        (named, _) => model_folder(named),
    }
}

/// The folder that a file or a folder is in.
pub fn folder_of(path: &Path) -> PathBuf {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    parent.unwrap_or(Path::new(".")).to_owned()
}

/// What a model is called where people see it: its folder's name, or its file's. In the cache of the
/// Hugging Face hub, folders are named by commits and files by checksums: there it is the
/// repository's name, or that of the file's link.
pub fn model_label(path: &Path) -> String {
    let full = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    if let Some(repo) = hub_repository(&full) {
        let name = if full.is_file() { path.file_stem() } else { Some(repo.as_ref()) };
        return name.unwrap_or(full.as_os_str()).to_string_lossy().into_owned();
    }
    let name = if full.is_file() { full.file_stem() } else { full.file_name() };
    name.unwrap_or(full.as_os_str()).to_string_lossy().into_owned()
}

/// The name of the repository, for `models--ORG--NAME/snapshots/COMMIT` and its blobs.
fn hub_repository(path: &Path) -> Option<String> {
    let inner = path.parent().filter(|p| p.ends_with("snapshots") || p.ends_with("blobs"))?;
    let repo = inner.parent()?.file_name()?.to_str()?.strip_prefix("models--")?;
    repo.split_once("--").map(|(_, name)| name.to_owned())
}

/// Folders that may hold the demo model, nearest first: the working directory and its parents,
/// the executable's folder and its parents (which finds the tree of a `cargo build`), the data
/// folder.
fn candidates() -> Vec<PathBuf> {
    let up = |start: PathBuf| start.ancestors().map(|p| p.join(DEMO)).collect::<Vec<_>>();
    let mut found = Vec::new();
    found.extend(env::current_dir().map(up).unwrap_or_default());
    found.extend(
        env::current_exe().ok().and_then(|p| Some(up(p.parent()?.to_owned()))).unwrap_or_default(),
    );
    found.extend(data_folder().map(|p| p.join(DEMO)));
    found
}

/// `$XDG_DATA_HOME/llm-dit` or its equivalent here.
fn data_folder() -> Option<PathBuf> {
    dirs::data_dir().map(|p| p.join("llm-dit"))
}

fn check(path: &Path) -> Result<PathBuf, LoadError> {
    let missing =
        |what: &str| LoadError::NotAModel { path: path.to_owned(), what: what.to_owned() };
    if !path.is_dir() {
        return Err(missing("the folder"));
    }
    // Beside single files, a folder with what they lack will do.
    let has = |name: &str| path.join(name).exists();
    if !["model_index.json", "transformer", "text_encoder", "tokenizer", "vae"].into_iter().any(has)
    {
        return Err(missing("model_index.json"));
    }
    Ok(path.to_owned())
}
