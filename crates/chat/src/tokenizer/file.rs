//! Reading a tokenizer from its folder.

use std::{collections::HashMap, io::ErrorKind, path::Path};

use serde::de::DeserializeOwned;
use serde_json::Value;
use tokenizers::{DecoderWrapper, ModelWrapper, NormalizerWrapper, PreTokenizerWrapper, Tokenizer};

use super::parts;
use crate::{ChatError, layout::Special};

/// A tokenizer that treats every added token as text by default, and the ids of those tokens that
/// the chat format needs.
pub(super) fn read(folder: &Path) -> Result<(Tokenizer, [u32; Special::ALL.len()]), ChatError> {
    let path = folder.join("tokenizer.json");
    let (path, json) = match llm_dit_text::read(&path) {
        Ok(text) => (path, serde_json::from_str(&text).map_err(|e| e.to_string())),
        Err(error) if error.kind() == ErrorKind::NotFound => {
            (folder.to_owned(), Ok(parts::assemble(folder)?))
        }
        Err(cause) => return Err(ChatError::Io { path, cause }),
    };
    let json = json.map_err(|cause| ChatError::Invalid { path: path.clone(), cause })?;
    make(&path, json)
}

/// The same of what a `tokenizer.json` would have; `path` is where it comes from.
pub(super) fn make(
    path: &Path,
    mut json: Value,
) -> Result<(Tokenizer, [u32; Special::ALL.len()]), ChatError> {
    let invalid = |cause: String| ChatError::Invalid { path: path.to_owned(), cause };
    let added = json
        .get_mut("added_tokens")
        .and_then(Value::as_array_mut)
        .ok_or_else(|| invalid("it has no added_tokens".to_owned()))?;
    let mut ids = HashMap::new();
    for token in added {
        let id = token.get("id").and_then(Value::as_u64);
        if let (Some(content), Some(id)) = (token.get("content").and_then(Value::as_str), id) {
            ids.insert(content.to_owned(), id);
        }
        // The switch that keeps special tokens text spares all others, of which <think> is one.
        if let Some(token) = token.as_object_mut() {
            token.insert("special".to_owned(), Value::Bool(true));
        }
    }
    let mut specials = [0; Special::ALL.len()];
    for (id, special) in specials.iter_mut().zip(Special::ALL) {
        let token = special.name();
        *id = ids
            .get(token)
            .and_then(|&id| u32::try_from(id).ok())
            .ok_or_else(|| ChatError::MissingToken { path: path.to_owned(), token })?;
    }
    // Whatever the file says, we neither pad nor cut, and offsets stay those of the text.
    for step in ["padding", "truncation", "post_processor"] {
        json[step] = Value::Null;
    }
    let tokenizer = serde_json::from_value(json.clone());
    let mut tokenizer: Tokenizer = tokenizer.map_err(|_| invalid(misfit(&json)))?;
    tokenizer.set_encode_special_tokens(true);
    Ok((tokenizer, specials))
}

/// Which part of a tokenizer the library cannot read. Its own words are about its code.
fn misfit(json: &Value) -> String {
    fn reads<T: DeserializeOwned>(part: &Value) -> bool {
        part.is_null() || serde_json::from_value::<T>(part.clone()).is_ok()
    }
    let part = [
        ("normalizer", reads::<NormalizerWrapper>(&json["normalizer"])),
        ("pre_tokenizer", reads::<PreTokenizerWrapper>(&json["pre_tokenizer"])),
        ("decoder", reads::<DecoderWrapper>(&json["decoder"])),
        ("model", reads::<ModelWrapper>(&json["model"])),
    ];
    match part.iter().find(|(_, reads)| !reads) {
        Some((part, _)) => format!("its {part} is of no known kind"),
        None => "its version or its added_tokens are of no known kind".to_owned(),
    }
}
