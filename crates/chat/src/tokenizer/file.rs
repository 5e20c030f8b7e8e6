//! Reading `tokenizer.json`.

use std::{collections::HashMap, fs, path::Path};

use serde_json::Value;
use tokenizers::Tokenizer;

use crate::{ChatError, layout::Special};

/// A tokenizer that treats every added token as text by default, and the ids of those tokens that
/// the chat format needs.
pub(super) fn read(path: &Path) -> Result<(Tokenizer, [u32; Special::ALL.len()]), ChatError> {
    let bytes = fs::read(path).map_err(|cause| ChatError::Io { path: path.to_owned(), cause })?;
    let invalid = |cause: String| ChatError::Invalid { path: path.to_owned(), cause };
    let mut json: Value = serde_json::from_slice(&bytes).map_err(|e| invalid(e.to_string()))?;
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
    let mut tokenizer: Tokenizer =
        serde_json::from_value(json).map_err(|e| invalid(e.to_string()))?;
    tokenizer.set_encode_special_tokens(true);
    Ok((tokenizer, specials))
}
