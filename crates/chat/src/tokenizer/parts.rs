//! A tokenizer of its parts: the vocabulary, the merges and the added tokens, each in a file of its own
//! as they came before `tokenizer.json`, or together in a file of weights. What is not in them is as in
//! every Qwen tokenizer.

use std::{collections::BTreeSet, io::ErrorKind, path::Path};

use serde_json::{Map, Value, json};

use super::TokenizerParts;
use crate::ChatError;

/// Where words are cut before the merges, as in `Qwen2Converter` of transformers.
const SPLIT: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// Classes that cut so.
const CLASSES: [&str; 2] = ["Qwen2Tokenizer", "Qwen2TokenizerFast"];

/// What `tokenizer.json` would be, for a folder without one.
///
/// # Errors
///
/// [`ChatError`] that names the file that is missing or wrong.
pub(super) fn assemble(folder: &Path) -> Result<Value, ChatError> {
    let no = |lacks: &'static str| ChatError::NoTokenizer { path: folder.to_owned(), lacks };
    let vocab = object(folder, "vocab.json")?.ok_or_else(|| no("vocab.json is"))?;
    let merges = text(folder, "merges.txt")?.ok_or_else(|| no("merges.txt is"))?;
    let added = added_tokens(folder)?.ok_or_else(|| no("the added tokens are"))?;
    Ok(layout(&vocab, &pairs(folder, &merges)?, &added))
}

/// What `tokenizer.json` would be, of the parts in a file of weights.
///
/// # Errors
///
/// What is wrong with them.
pub(super) fn of_weights(parts: &TokenizerParts) -> Result<Value, String> {
    let added: BTreeSet<u32> = parts.added.iter().copied().collect();
    let (mut vocab, mut tokens) = (Map::new(), Vec::new());
    for (id, token) in (0u32..).zip(&parts.tokens) {
        if added.contains(&id) {
            tokens.push(added_token(id, token));
        } else {
            vocab.insert(token.clone(), id.into());
        }
    }
    let merges = parts.merges.iter().map(|merge| {
        let pair = merge.split_once(' ').filter(|(_, second)| !second.contains(' '));
        pair.map(|(first, second)| [first.to_owned(), second.to_owned()]).ok_or_else(|| {
            let merge: String = merge.chars().take(80).collect();
            format!("its merge '{merge}' is not two tokens with a space between")
        })
    });
    Ok(layout(&vocab, &merges.collect::<Result<Vec<_>, _>>()?, &tokens))
}

fn added_token(id: u32, content: &str) -> Value {
    json!({
        "id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
        "normalized": false, "special": true,
    })
}

fn layout(vocab: &Map<String, Value>, merges: &[[String; 2]], added_tokens: &[Value]) -> Value {
    json!({
        "version": "1.0",
        "added_tokens": added_tokens,
        "normalizer": {"type": "NFC"},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
            {"type": "Split", "pattern": {"Regex": SPLIT}, "behavior": "Isolated", "invert": false},
            {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false},
        ]},
        "decoder": {
            "type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true,
        },
        "model": {
            "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false,
            "ignore_merges": false, "vocab": vocab, "merges": merges,
        },
    })
}

/// The tokens of a line each, after a line with the version.
fn pairs(folder: &Path, merges: &str) -> Result<Vec<[String; 2]>, ChatError> {
    let lines = merges.lines().enumerate().filter(|(_, line)| !line.is_empty());
    lines
        .filter(|(at, line)| *at > 0 || !line.starts_with("#version"))
        .map(|(at, line)| match line.split(' ').collect::<Vec<_>>()[..] {
            [a, b] => Ok([a.to_owned(), b.to_owned()]),
            _ => {
                let cause = format!("line {} is not two tokens with a space between", at + 1);
                Err(ChatError::Invalid { path: folder.join("merges.txt"), cause })
            }
        })
        .collect()
}

/// In `tokenizer_config.json`, or in a file of their own as older programs wrote them.
fn added_tokens(folder: &Path) -> Result<Option<Vec<Value>>, ChatError> {
    let config = object(folder, "tokenizer_config.json")?.unwrap_or_default();
    let invalid = |cause: String| {
        let path = folder.join("tokenizer_config.json");
        Err(ChatError::Invalid { path, cause })
    };
    if let Some(class) = config.get("tokenizer_class").and_then(Value::as_str)
        && !CLASSES.contains(&class)
    {
        let class: String = class.chars().take(80).collect();
        return invalid(format!(
            "tokenizer_class {class} cannot be made of vocab.json and merges.txt; add its tokenizer.json"
        ));
    }
    if config.get("add_prefix_space").is_some_and(|add| *add == true) {
        return invalid("add_prefix_space is true; add the tokenizer.json that does so".into());
    }
    if let Some(tokens) = config.get("added_tokens_decoder").and_then(Value::as_object) {
        let token = |(id, about): (&String, &Value)| {
            let id = id.parse::<u32>().ok()?;
            let mut token = about.as_object()?.clone();
            token.insert("id".into(), id.into());
            Some((id, Value::Object(token)))
        };
        return match tokens.iter().map(token).collect::<Option<Vec<_>>>() {
            Some(tokens) => Ok(Some(in_order(tokens))),
            None => invalid("added_tokens_decoder is not an object of tokens by id".into()),
        };
    }
    let Some(tokens) = object(folder, "added_tokens.json")? else { return Ok(None) };
    let token = |(content, id): (&String, &Value)| {
        let id = u32::try_from(id.as_u64()?).ok()?;
        Some((id, added_token(id, content)))
    };
    match tokens.iter().map(token).collect::<Option<Vec<_>>>() {
        Some(tokens) => Ok(Some(in_order(tokens))),
        None => Err(ChatError::Invalid {
            path: folder.join("added_tokens.json"),
            cause: "it is not an object of ids by token".into(),
        }),
    }
}

/// The library takes ids to be in order.
fn in_order(mut tokens: Vec<(u32, Value)>) -> Vec<Value> {
    tokens.sort_by_key(|(id, _)| *id);
    tokens.into_iter().map(|(_, token)| token).collect()
}

fn object(folder: &Path, name: &str) -> Result<Option<Map<String, Value>>, ChatError> {
    let Some(text) = text(folder, name)? else { return Ok(None) };
    let invalid = |cause| ChatError::Invalid { path: folder.join(name), cause };
    match serde_json::from_str(&text).map_err(|e| invalid(e.to_string()))? {
        Value::Object(object) => Ok(Some(object)),
        _ => Err(invalid("it is not a JSON object".into())),
    }
}

/// `None` without such a file.
fn text(folder: &Path, name: &str) -> Result<Option<String>, ChatError> {
    let path = folder.join(name);
    match llm_dit_text::read(&path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(cause) => Err(ChatError::Io { path, cause }),
    }
}
