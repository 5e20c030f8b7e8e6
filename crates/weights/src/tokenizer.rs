//! Tokenizers in files of weights.

use std::path::Path;

use crate::{
    LoadError,
    gguf::{self, GgufTokenizer},
    mapped,
};

/// The tokenizer in a GGUF file, if there is one.
///
/// # Errors
///
/// [`LoadError`] if the file cannot be read, or has a tokenizer of another kind than Qwen's.
pub fn gguf_tokenizer(path: &Path) -> Result<Option<GgufTokenizer>, LoadError> {
    let (map, _) = mapped::map(path)?;
    if !map.starts_with(gguf::MAGIC) {
        return Ok(None);
    }
    let invalid = |cause| LoadError::Invalid { path: path.to_owned(), cause };
    gguf::tokenizer::read(&map).map_err(invalid)
}
