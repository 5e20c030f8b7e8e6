//! The caller's options for the conversation around a prompt.

use crate::{Chat, ThinkBlock};

/// `None` means "nothing was said", which a template may fill; an empty text was said and stays.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ChatOptions {
    pub system: Option<String>,
    pub thinking: Option<String>,
    pub assistant: Option<String>,
    /// The last word on the think block.
    pub enable_thinking: Option<bool>,
    /// Adds a think block, unless `enable_thinking` speaks against it.
    pub force_think_block: bool,
    pub raw_special_tokens: bool,
}

impl ChatOptions {
    /// The conversation around this prompt.
    pub fn chat(self, prompt: impl Into<String>) -> Chat {
        Chat {
            system: self.system.unwrap_or_default(),
            thinking: self.thinking.unwrap_or_default(),
            assistant: self.assistant.unwrap_or_default(),
            think_block: ThinkBlock::from_switches(self.enable_thinking, self.force_think_block),
            raw_special_tokens: self.raw_special_tokens,
            ..Chat::user(prompt)
        }
    }
}
