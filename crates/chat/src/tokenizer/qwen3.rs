//! The tokenizer that was released with Qwen3, from the program itself. `data/README.md` says where it
//! comes from.

use std::io::Read as _;

use flate2::read::GzDecoder;
use serde_json::{Map, Value};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;

use crate::ChatError;

/// As errors name it.
pub(super) const NAME: &str = "the built-in tokenizer";

/// Two tokens a line, in the order in which they are merged.
const MERGES: &[u8] = include_bytes!("../../data/qwen3-merges.txt.gz");
/// The released `tokenizer.json` without vocabulary and merges.
const REST: &str = include_str!("../../data/qwen3-rest.json");

/// The released `tokenizer.json`.
///
/// # Errors
///
/// [`ChatError::Invalid`] if the program is damaged.
pub(super) fn json() -> Result<Value, ChatError> {
    let damaged = |cause: String| ChatError::Invalid { path: NAME.into(), cause };
    let mut text = String::new();
    GzDecoder::new(MERGES).read_to_string(&mut text).map_err(|error| damaged(error.to_string()))?;
    let mut json: Value = serde_json::from_str(REST).map_err(|error| damaged(error.to_string()))?;
    // Each token that is not a byte is what one merge joins, and comes in that order.
    let mut bytes: Vec<char> = ByteLevel::alphabet().into_iter().collect();
    bytes.sort_unstable();
    let mut vocabulary: Map<String, Value> =
        (0..).zip(bytes).map(|(id, byte): (u32, char)| (byte.to_string(), id.into())).collect();
    let mut merges = Vec::new();
    for (id, line) in (256_u32..).zip(text.lines()) {
        let pair = line.split_once(' ').ok_or_else(|| damaged(format!("no merge: {line}")))?;
        vocabulary.insert([pair.0, pair.1].concat(), id.into());
        merges.push(Value::from(vec![pair.0, pair.1]));
    }
    json["model"]["vocab"] = vocabulary.into();
    json["model"]["merges"] = merges.into();
    Ok(json)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde::Deserialize;

    use super::super::ChatTokenizer;

    /// What the library `tokenizers` made of the released file.
    #[derive(Deserialize)]
    struct Ids {
        size: usize,
        vocabulary_sha256: String,
        texts: Vec<Text>,
    }

    #[derive(Deserialize)]
    struct Text {
        text: String,
        ids: Vec<u32>,
    }

    #[test]
    fn the_built_in_tokenizer_is_the_released_one() {
        let known: Ids =
            serde_json::from_str(include_str!("../../data/qwen3-ids.json")).expect("a golden");
        let tokenizer = ChatTokenizer::qwen3().expect("it is in the program");
        let vocabulary: BTreeMap<u32, String> =
            tokenizer.raw().get_vocab(true).into_iter().map(|(token, id)| (id, token)).collect();
        assert_eq!((vocabulary.len(), tokenizer.vocabulary()), (known.size, known.size));
        let lines: String = vocabulary.values().map(|token| format!("{token}\n")).collect();
        let hash = ring::digest::digest(&ring::digest::SHA256, lines.as_bytes());
        let hash: String = hash.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hash, known.vocabulary_sha256);
        for (token, id) in [
            ("<|endoftext|>", 151_643),
            ("<|im_start|>", 151_644),
            ("<|im_end|>", 151_645),
            ("<think>", 151_667),
            ("</think>", 151_668),
        ] {
            assert_eq!(tokenizer.raw().token_to_id(token), Some(id), "{token}");
        }
        assert!(known.texts.len() > 20);
        for Text { text, ids } in known.texts {
            let encoding = tokenizer.raw().encode(text.as_str(), false).expect("text");
            assert_eq!(encoding.get_ids(), ids, "{text:?}");
        }
    }
}
