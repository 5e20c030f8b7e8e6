//! Qwen3's chat format and the token budget.
//!
//! A [`Chat`] is laid out once, as pieces of special tokens and text. Both the text that a person
//! may read and the ids that the encoder takes are made from those pieces, so they cannot differ.
//!
//! Decision: ids are never made from the readable text. A special token that a user typed stays
//! text, letter by letter, and so cannot close the user's turn or open another one.
//! [`Chat::raw_special_tokens`] turns this off.

mod chat;
#[cfg(feature = "tokenizer")]
mod counts;
mod layout;
mod options;
#[cfg(feature = "tokenizer")]
mod tokenizer;
mod wire;

pub use chat::{Chat, Exchange, ThinkBlock};
#[cfg(feature = "tokenizer")]
pub use counts::TokenCounts;
pub use options::ChatOptions;
#[cfg(feature = "tokenizer")]
pub use tokenizer::{ChatTokenizer, Tokenized, TokenizerParts};

use std::path::PathBuf;

/// Why a chat could not be turned into ids.
#[derive(Debug, thiserror::Error)]
pub enum ChatError {
    #[error("cannot read {path}: {cause}")]
    Io { path: PathBuf, cause: std::io::Error },
    #[error(
        "no tokenizer in {path}: there is no tokenizer.json, and to make one of vocab.json, merges.txt and the added tokens (in tokenizer_config.json or added_tokens.json), {lacks} missing; download tokenizer.json from the model's repository"
    )]
    NoTokenizer { path: PathBuf, lacks: &'static str },
    #[error("{path} is not a tokenizer: {cause}")]
    Invalid { path: PathBuf, cause: String },
    #[error("{path} has no token '{token}', so it is not the tokenizer of a Qwen3 chat model")]
    MissingToken { path: PathBuf, token: &'static str },
    #[error(
        "the chat without the prompt (system, thinking and assistant text, headers) has {needed} tokens, but max_tokens is {max_tokens}; shorten it or increase max_tokens"
    )]
    NoRoom { needed: usize, max_tokens: usize },
    /// The tokenizer failed; the cause is for the log, not for the caller.
    #[error("the tokenizer failed: {0}")]
    Tokenizer(String),
}
