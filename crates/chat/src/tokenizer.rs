//! From pieces to ids, within a budget.

use std::{collections::HashMap, fs, path::Path};

use serde_json::Value;
use tokenizers::{Encoding, Tokenizer};

use crate::{
    Chat, ChatError,
    chat::{Piece, Special},
};

/// Turns chats into token ids.
#[derive(Debug)]
pub struct ChatTokenizer {
    /// Knows no added tokens, so that nothing a person types can become one.
    text: Tokenizer,
    specials: [u32; Special::ALL.len()],
}

/// A chat as the encoder takes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tokenized {
    pub ids: Vec<u32>,
    /// Tokens cut from the end of the user's text; 0 when all of it fitted.
    pub truncated_tokens: usize,
}

/// A stretch between special tokens.
#[derive(Default)]
struct Stretch {
    text: String,
    /// Bytes of `text` before the user's, when it holds the user's.
    user_from: Option<usize>,
}

impl ChatTokenizer {
    /// Reads `tokenizer.json` of a model's `tokenizer/` folder.
    pub fn from_folder(folder: &Path) -> Result<Self, ChatError> {
        let path = folder.join("tokenizer.json");
        let bytes =
            fs::read(&path).map_err(|cause| ChatError::Io { path: path.clone(), cause })?;
        let invalid = |cause: String| ChatError::Invalid { path: path.clone(), cause };
        let mut json: Value = serde_json::from_slice(&bytes).map_err(|e| invalid(e.to_string()))?;
        let added = json
            .get_mut("added_tokens")
            .map(std::mem::take)
            .ok_or_else(|| invalid("it has no added_tokens".to_owned()))?;
        json["added_tokens"] = Value::Array(Vec::new());
        // Whatever the file says, we neither pad nor cut.
        json["padding"] = Value::Null;
        json["truncation"] = Value::Null;

        let added: HashMap<&str, u64> = added
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|token| Some((token.get("content")?.as_str()?, token.get("id")?.as_u64()?)))
            .collect();
        let mut specials = [0; Special::ALL.len()];
        for (id, special) in specials.iter_mut().zip(Special::ALL) {
            let token = special.name();
            *id = added
                .get(token)
                .and_then(|&id| u32::try_from(id).ok())
                .ok_or_else(|| ChatError::MissingToken { path: path.clone(), token })?;
        }
        let text = serde_json::from_value(json).map_err(|e| invalid(e.to_string()))?;
        Ok(Self { text, specials })
    }

    /// The chat's ids, at most `max_tokens` of them. What does not fit is cut from the end of the
    /// user's text, so that the headers around it, above all the one that opens the answer,
    /// survive.
    pub fn tokenize(&self, chat: &Chat, max_tokens: usize) -> Result<Tokenized, ChatError> {
        let mut ids = Vec::new();
        // Where the ids of the user's stretch lie, and how many of them may go.
        let mut user = (0, 0);
        let mut stretch = Stretch::default();
        for piece in chat.pieces() {
            match piece {
                Piece::Text(text) => stretch.text.push_str(text),
                Piece::User(text) => {
                    stretch.user_from = Some(stretch.text.len());
                    stretch.text.push_str(text);
                }
                Piece::Special(special) => {
                    self.flush(&mut stretch, &mut ids, &mut user)?;
                    ids.push(self.specials[special as usize]);
                }
            }
        }
        self.flush(&mut stretch, &mut ids, &mut user)?;

        let truncated_tokens = ids.len().saturating_sub(max_tokens);
        let (end, may_go) = user;
        if truncated_tokens > may_go {
            return Err(ChatError::NoRoom { needed: ids.len() - may_go, max_tokens });
        }
        ids.drain(end - truncated_tokens..end);
        Ok(Tokenized { ids, truncated_tokens })
    }

    /// Appends the stretch's ids and begins a new stretch.
    fn flush(
        &self,
        stretch: &mut Stretch,
        ids: &mut Vec<u32>,
        user: &mut (usize, usize),
    ) -> Result<(), ChatError> {
        let Stretch { text, user_from } = std::mem::take(stretch);
        if text.is_empty() {
            return Ok(());
        }
        let encoding = self
            .text
            .encode(text.as_str(), false)
            .map_err(|e| ChatError::Tokenizer(e.to_string()))?;
        ids.extend(encoding.get_ids());
        if let Some(from) = user_from {
            *user = (ids.len(), tokens_from(&encoding, from));
        }
        Ok(())
    }
}

/// Tokens that hold nothing from before byte `from`. The header's line break may share a token
/// with line breaks that the user typed; that token stays.
fn tokens_from(encoding: &Encoding, from: usize) -> usize {
    encoding.get_offsets().iter().rev().take_while(|(start, _)| *start >= from).count()
}
