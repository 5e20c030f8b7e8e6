//! Turns pieces into ids, within a budget.

mod file;
mod parts;
mod qwen3;

use std::{path::Path, sync::OnceLock};

use llm_dit_params::Truncation;
use tokenizers::Tokenizer;

use crate::{
    Chat, ChatError, TokenCounts,
    layout::{Part, Piece, Special},
};

/// Turns chats into token ids.
#[derive(Debug)]
pub struct ChatTokenizer {
    /// Takes every added token for text, so that nothing a person types can become one.
    text: Tokenizer,
    /// Takes added tokens for what they are. Made when first asked for, since few ask and a large
    /// vocabulary takes tens of megabytes.
    raw: OnceLock<Tokenizer>,
    specials: [u32; Special::ALL.len()],
}

/// A byte-level BPE tokenizer in parts.
#[derive(Clone, Debug, Default)]
pub struct TokenizerParts {
    /// By id, in the alphabet of byte-level BPE.
    pub tokens: Vec<String>,
    /// Two tokens with a space between, in the order in which they are merged.
    pub merges: Vec<String>,
    /// Ids of the tokens that stand for themselves wherever their text is met.
    pub added: Vec<u32>,
}

/// A chat as the encoder takes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tokenized {
    pub ids: Vec<u32>,
    /// What the ids are, by part.
    pub counts: TokenCounts,
    /// Tokens that were cut; 0 when all of the chat fitted.
    pub truncated_tokens: usize,
}

/// A stretch of text that the tokenizer sees as one string.
#[derive(Default)]
struct Stretch {
    text: String,
    /// Where each part begins, in bytes.
    parts: Vec<(usize, Part)>,
}

/// Ids, and for each the part in which it begins.
#[derive(Default)]
struct Tokens {
    ids: Vec<u32>,
    parts: Vec<Part>,
}

impl ChatTokenizer {
    /// Reads `tokenizer.json` of a model's `tokenizer/` folder, or what there was before it:
    /// `vocab.json`, `merges.txt` and the added tokens of `tokenizer_config.json`.
    ///
    /// # Errors
    ///
    /// Fails if the file cannot be read or is not a tokenizer that this crate supports.
    pub fn from_folder(folder: &Path) -> Result<Self, ChatError> {
        let (text, specials) = file::read(folder)?;
        Ok(Self { text, raw: OnceLock::new(), specials })
    }

    /// A tokenizer of the parts that a file of weights brings along; `path` is that file.
    ///
    /// # Errors
    ///
    /// Fails if the parts do not belong together, or lack a token of Qwen3's chats.
    pub fn from_parts(path: &Path, parts: &TokenizerParts) -> Result<Self, ChatError> {
        let json = parts::of_weights(parts)
            .map_err(|cause| ChatError::Invalid { path: path.to_owned(), cause })?;
        let (text, specials) = file::make(path, json)?;
        Ok(Self { text, raw: OnceLock::new(), specials })
    }

    /// The tokenizer that was released with Qwen3. It is part of the program.
    ///
    /// # Errors
    ///
    /// Fails if the program is damaged.
    pub fn qwen3() -> Result<Self, ChatError> {
        let (text, specials) = file::make(Path::new(qwen3::NAME), qwen3::json()?)?;
        Ok(Self { text, raw: OnceLock::new(), specials })
    }

    /// One more than the largest token id.
    pub fn vocabulary(&self) -> usize {
        self.text.get_vocab_size(true)
    }

    /// The chat's ids, at most `max_tokens` of them. What does not fit is cut from the end of the
    /// user's text, so that the headers around it, above all the one that opens the answer,
    /// survive.
    ///
    /// # Errors
    ///
    /// [`ChatError::NoRoom`] if the parts that must not be cut are longer than `max_tokens`; fails
    /// too if the tokenizer fails.
    pub fn tokenize(&self, chat: &Chat, max_tokens: usize) -> Result<Tokenized, ChatError> {
        self.tokenize_to(chat, max_tokens, Truncation::Prompt)
    }

    /// As [`Self::tokenize`], cut where `truncation` says.
    ///
    /// # Errors
    ///
    /// As [`Self::tokenize`]; with [`Truncation::End`] everything can be cut.
    pub fn tokenize_to(
        &self,
        chat: &Chat,
        max_tokens: usize,
        truncation: Truncation,
    ) -> Result<Tokenized, ChatError> {
        let mut tokens = self.tokens(chat)?;
        let truncated_tokens = tokens.ids.len().saturating_sub(max_tokens);
        if truncation == Truncation::End {
            tokens.ids.truncate(max_tokens);
            tokens.parts.truncate(max_tokens);
            let counts = TokenCounts::of(&tokens.parts);
            return Ok(Tokenized { ids: tokens.ids, counts, truncated_tokens });
        }
        let may_go = tokens.parts.iter().filter(|&&part| part == Part::User).count();
        if truncated_tokens > may_go {
            return Err(ChatError::NoRoom { needed: tokens.ids.len() - may_go, max_tokens });
        }
        // A line break of the header may share a token with line breaks that the user typed; that
        // token is the header's and stays.
        if let Some(last) = tokens.parts.iter().rposition(|&part| part == Part::User) {
            let cut = last + 1 - truncated_tokens..last + 1;
            tokens.ids.drain(cut.clone());
            tokens.parts.drain(cut);
        }
        let counts = TokenCounts::of(&tokens.parts);
        Ok(Tokenized { ids: tokens.ids, counts, truncated_tokens })
    }

    /// How many tokens the whole chat takes, by part.
    ///
    /// # Errors
    ///
    /// Fails if the tokenizer fails.
    pub fn count(&self, chat: &Chat) -> Result<TokenCounts, ChatError> {
        Ok(TokenCounts::of(&self.tokens(chat)?.parts))
    }

    fn tokens(&self, chat: &Chat) -> Result<Tokens, ChatError> {
        let tokenizer = if chat.raw_special_tokens { self.raw() } else { &self.text };
        let mut tokens = Tokens::default();
        let mut stretch = Stretch::default();
        for piece in chat.pieces() {
            match piece {
                Piece::Text(part, text) => stretch.push(part, text),
                // Then all of the chat is one string, as it is for transformers.
                Piece::Special(special) if chat.raw_special_tokens => {
                    stretch.push(Part::Frame, special.name());
                }
                Piece::Special(special) => {
                    std::mem::take(&mut stretch).tokenize(tokenizer, &mut tokens)?;
                    tokens.ids.push(self.specials[special as usize]);
                    tokens.parts.push(Part::Frame);
                }
            }
        }
        stretch.tokenize(tokenizer, &mut tokens)?;
        Ok(tokens)
    }

    fn raw(&self) -> &Tokenizer {
        self.raw.get_or_init(|| {
            let mut raw = self.text.clone();
            raw.set_encode_special_tokens(false);
            raw
        })
    }
}

impl Stretch {
    fn push(&mut self, part: Part, text: &str) {
        if !text.is_empty() {
            self.parts.push((self.text.len(), part));
            self.text.push_str(text);
        }
    }

    fn tokenize(self, tokenizer: &Tokenizer, tokens: &mut Tokens) -> Result<(), ChatError> {
        if self.text.is_empty() {
            return Ok(());
        }
        let encoding = tokenizer
            .encode(self.text.as_str(), false)
            .map_err(|e| ChatError::Tokenizer(e.to_string()))?;
        tokens.ids.extend(encoding.get_ids());
        tokens.parts.extend(encoding.get_offsets().iter().map(|&(begin, _)| self.part_at(begin)));
        Ok(())
    }

    fn part_at(&self, byte: usize) -> Part {
        let after = self.parts.partition_point(|&(begin, _)| begin <= byte);
        after.checked_sub(1).map_or(Part::Frame, |i| self.parts[i].1)
    }
}
