//! One conversation, and the rule for the negative prompt beside it.

/// One conversation, ending where the model would answer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Chat {
    /// System prompt; no system turn when empty.
    pub system: String,
    /// What was said before, oldest first.
    pub history: Vec<Exchange>,
    /// What to draw.
    pub user: String,
    /// Content of the think block.
    pub thinking: String,
    /// Beginning of the answer; when not empty, the answer's turn is closed.
    pub assistant: String,
    pub think_block: ThinkBlock,
    /// Closes the answer's turn even when `assistant` is empty.
    pub close_turn: bool,
    /// Takes special tokens that were typed in any of the texts for what they say, as transformers
    /// does. Otherwise they are text.
    pub raw_special_tokens: bool,
}

/// A user's turn and the answer to it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Exchange {
    pub user: String,
    /// Content of the answer's think block.
    pub thinking: String,
    pub assistant: String,
}

/// Whether answers begin with a think block. It holds for the whole conversation: either every
/// answer has one or none has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ThinkBlock {
    /// When there is something to put into one.
    #[default]
    Auto,
    /// Even if it is empty.
    On,
    /// Not even if there is something to put into it; that is dropped.
    Off,
}

impl Chat {
    /// A chat that is nothing but a prompt.
    pub fn user(text: impl Into<String>) -> Self {
        Self { user: text.into(), ..Self::default() }
    }

    /// The conversation for the negative prompt that goes with this one: the bare text, with a think
    /// block exactly when this one has it. Guidance then leads away from the text alone, not from
    /// the system prompt or from the layout that both share.
    pub fn negative(&self, text: impl Into<String>) -> Self {
        Self {
            think_block: if self.has_think_block() { ThinkBlock::On } else { ThinkBlock::Auto },
            raw_special_tokens: self.raw_special_tokens,
            ..Self::user(text)
        }
    }

    /// Whether the rendered chat contains a think block. [`ThinkBlock::Auto`] adds one if any turn
    /// has thinking text.
    pub fn has_think_block(&self) -> bool {
        match self.think_block {
            ThinkBlock::On => true,
            ThinkBlock::Off => false,
            ThinkBlock::Auto => {
                !self.thinking.is_empty() || self.history.iter().any(|e| !e.thinking.is_empty())
            }
        }
    }
}

impl ThinkBlock {
    /// From the two switches that callers have. An explicit `enable_thinking` is the last word;
    /// `force` only adds a block where none was asked for.
    pub fn from_switches(enable_thinking: Option<bool>, force: bool) -> Self {
        match (enable_thinking, force) {
            (Some(false), _) => Self::Off,
            (Some(true), _) | (None, true) => Self::On,
            (None, false) => Self::Auto,
        }
    }

    /// `enable_thinking` as it would have to be given for this.
    pub fn as_switch(self) -> Option<bool> {
        match self {
            Self::Auto => None,
            Self::On => Some(true),
            Self::Off => Some(false),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_negative_prompt_shares_the_think_block_alone() {
        let chat = Chat {
            system: "S".into(),
            thinking: "T".into(),
            assistant: "A".into(),
            close_turn: true,
            ..Chat::user("P")
        };
        let block = Chat { think_block: ThinkBlock::On, ..Chat::user("N") };
        assert_eq!(chat.negative("N"), block);
        assert_eq!(block.negative("N"), block);
        assert_eq!(Chat::user("P").negative("N"), Chat::user("N"));
        let off = Chat { think_block: ThinkBlock::Off, ..chat };
        assert_eq!(off.negative("N"), Chat::user("N"));
        let raw = Chat { raw_special_tokens: true, ..off };
        assert_eq!(raw.negative("N"), Chat { raw_special_tokens: true, ..Chat::user("N") });
    }

    #[test]
    fn the_explicit_switch_is_the_last_word() {
        use ThinkBlock::*;
        for (enable, force, expected) in [
            (None, false, Auto),
            (None, true, On),
            (Some(true), false, On),
            (Some(true), true, On),
            (Some(false), false, Off),
            (Some(false), true, Off),
        ] {
            let block = ThinkBlock::from_switches(enable, force);
            assert_eq!(block, expected, "{enable:?} {force}");
            assert_eq!(ThinkBlock::from_switches(block.as_switch(), false), block);
        }
    }
}
