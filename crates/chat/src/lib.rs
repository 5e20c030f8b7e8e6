//! Qwen3's chat format and the token budget.

/// Turns chats into token ids.
#[derive(Debug)]
pub struct ChatTokenizer;
