//! JSON files of a model's folder.

use std::path::Path;

use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::{LoadError, Schema, schema::parse};

/// Reads a JSON file of a model, every key of which `schema` knows.
///
/// # Errors
///
/// [`LoadError`] if the file cannot be read, is not JSON, or says what `schema` does not allow.
pub fn read_config<T: DeserializeOwned>(path: &Path, schema: &Schema) -> Result<T, LoadError> {
    let invalid = |cause| LoadError::Invalid { path: path.to_owned(), cause };
    schema.read(&read_object(path)?).map_err(invalid)
}

/// The object of a JSON file of a model, unchecked.
///
/// # Errors
///
/// [`LoadError`] if the file cannot be read or is not a JSON object.
pub fn read_object(path: &Path) -> Result<Map<String, Value>, LoadError> {
    let text =
        llm_dit_text::read(path).map_err(|cause| LoadError::Io { path: path.to_owned(), cause })?;
    parse(&text).map_err(|cause| LoadError::Invalid { path: path.to_owned(), cause })
}

/// Checks what a model folder's `model_index.json` says under the keys that concern the caller, if
/// the folder has one.
///
/// # Errors
///
/// As [`read_config`].
pub fn check_index(
    model: &Path,
    schema: &Schema,
    concerns: impl Fn(&str) -> bool,
) -> Result<(), LoadError> {
    let path = model.join("model_index.json");
    if !path.is_file() {
        return Ok(());
    }
    let mut object = read_object(&path)?;
    object.retain(|key, _| concerns(key));
    schema.check(&object).map_err(|cause| LoadError::Invalid { path, cause })
}
