//! The one rule that joins a prompt and its negative.

use crate::v1::Chat;

impl Chat {
    /// The conversation for the negative prompt that goes with this one: the bare text, laid out
    /// with a think block exactly when this one has it. No system prompt or other content, since
    /// guidance away from those would push against what the caller asked for.
    pub fn negative(&self, text: impl Into<String>) -> Self {
        Self {
            user: text.into(),
            force_think_block: self.force_think_block || !self.thinking.is_empty(),
            ..Self::default()
        }
    }
}
