//! The tokenizer that a GGUF file of a language model brings along.

use super::{Reader, counts, shown};

/// Its parts as the file has them. Tokens are written in the alphabet of byte-level BPE.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GgufTokenizer {
    /// By id.
    pub tokens: Vec<String>,
    /// Two tokens with a space between, in the order in which they are merged.
    pub merges: Vec<String>,
    /// Ids that stand for themselves wherever their text is met: control tokens and those that were
    /// added by hand.
    pub added: Vec<u32>,
}

/// ggml's kinds of tokens that the merges do not make: unknown, control, user-defined, unused.
const ADDED: std::ops::RangeInclusive<i32> = 2..=4;

const PREFIX: &str = "tokenizer.ggml.";

/// The tokenizer of a whole file, if there is one.
///
/// # Errors
///
/// What is wrong with it.
pub(crate) fn read(bytes: &[u8]) -> Result<Option<GgufTokenizer>, String> {
    let mut reader = Reader::new(bytes);
    let (_, pairs) = counts(&mut reader)?;
    let (mut model, mut pre) = (None, None);
    let (mut tokens, mut merges, mut kinds) = (None, None, None);
    for _ in 0..pairs {
        let key = reader.text("a key")?;
        match key.strip_prefix(PREFIX) {
            Some("tokens") => tokens = reader.peek(Reader::texts)?,
            Some("merges") => merges = reader.peek(Reader::texts)?,
            Some("token_type") => kinds = reader.peek(Reader::numbers)?,
            _ => {}
        }
        let value = reader.value(key)?;
        match key.strip_prefix(PREFIX) {
            Some("model") => model = value.text().map(str::to_owned),
            Some("pre") => pre = value.text().map(str::to_owned),
            _ => {}
        }
    }
    let (Some(tokens), Some(merges)) = (tokens, merges) else { return Ok(None) };
    for (key, found, expected) in [("model", &model, "gpt2"), ("pre", &pre, "qwen2")] {
        if found.as_deref() != Some(expected) {
            let found = found.as_deref().map_or_else(|| "missing".into(), shown);
            return Err(format!(
                "its {PREFIX}{key} is {found}, and Qwen3's is {expected}; give the folder with Qwen3's tokenizer/ as --model-path"
            ));
        }
    }
    let text = |bytes: &[u8]| {
        let text = std::str::from_utf8(bytes).map(str::to_owned);
        text.map_err(|_| "its tokenizer has a token that is not UTF-8".to_owned())
    };
    let texts = |all: Vec<&[u8]>| all.into_iter().map(text).collect::<Result<Vec<_>, _>>();
    let tokens = texts(tokens)?;
    let kinds = kinds.unwrap_or_default();
    let added = (0u32..).zip(kinds.iter().take(tokens.len()));
    let added = added.filter(|(_, kind)| ADDED.contains(*kind)).map(|(id, _)| id).collect();
    Ok(Some(GgufTokenizer { tokens, merges: texts(merges)?, added }))
}
