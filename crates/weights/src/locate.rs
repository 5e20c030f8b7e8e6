//! Finds the model folder: the one that is named, or the demo model.

use std::{
    env,
    path::{Path, PathBuf},
};

use crate::{LoadError, tokenizer::gguf_tokenizer};

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

/// [`model_folder`] for a program that encodes. A text encoder outside the model's folder comes
/// without its tokenizer, unless it is a GGUF file that has one, and the demo model's would cut the text
/// into other tokens.
///
/// # Errors
///
/// As [`model_folder`]; [`LoadError::NoTokenizer`] for a text encoder without a model folder.
pub fn encoder_folder(
    named: Option<&Path>,
    text_encoder: Option<&Path>,
) -> Result<PathBuf, LoadError> {
    let (Some(file), None) = (text_encoder, named) else { return model_folder(named) };
    // What else a file brings along is looked for beside it.
    let tokenizer = file.is_file().then(|| gguf_tokenizer(file)).transpose()?;
    match tokenizer.flatten() {
        Some(_) => Ok(file.parent().map(Path::to_owned).unwrap_or_default()),
        None => Err(LoadError::NoTokenizer),
    }
}

/// What a model is called where people see it: its folder's name, or its file's.
pub fn model_label(path: &Path) -> String {
    let full = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    let name = if full.is_file() { full.file_stem() } else { full.file_name() };
    name.unwrap_or(full.as_os_str()).to_string_lossy().into_owned()
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
