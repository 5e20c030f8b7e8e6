//! The layout of one conversation.

use std::fmt::Write as _;

/// One conversation, ending where the model would answer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Chat {
    /// What to draw.
    pub user: String,
    /// System prompt; no system turn when empty.
    pub system: String,
    /// Content of the think block, which appears when this is not empty.
    pub thinking: String,
    /// Beginning of the answer; when not empty, the answer's turn is closed.
    pub assistant: String,
    /// Writes the think block even when it is empty.
    pub force_think_block: bool,
}

/// The tokens that give a chat its shape.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Special {
    ImStart,
    ImEnd,
    Think,
    EndThink,
}

/// What a chat is made of. Neighbouring texts are one string to the tokenizer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Piece<'a> {
    Special(Special),
    Text(&'a str),
    /// The only text that may be cut to fit the token budget.
    User(&'a str),
}

impl Special {
    pub(crate) const ALL: [Self; 4] = [Self::ImStart, Self::ImEnd, Self::Think, Self::EndThink];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::ImStart => "<|im_start|>",
            Self::ImEnd => "<|im_end|>",
            Self::Think => "<think>",
            Self::EndThink => "</think>",
        }
    }
}

impl Chat {
    /// A chat that is nothing but a prompt.
    pub fn user(text: impl Into<String>) -> Self {
        Self { user: text.into(), ..Self::default() }
    }

    /// The conversation for the negative prompt that goes with this one: the bare text, with a think
    /// block exactly when this one has it. Guidance then leads away from the text alone, not from
    /// the system prompt or from the layout that both share. The wire's `Chat` has the same rule.
    pub fn negative(&self, text: impl Into<String>) -> Self {
        Self { user: text.into(), force_think_block: self.has_think_block(), ..Self::default() }
    }

    fn has_think_block(&self) -> bool {
        self.force_think_block || !self.thinking.is_empty()
    }

    /// The conversation as a person reads it, special tokens by name.
    pub fn render(&self) -> String {
        let mut text = String::new();
        for piece in self.pieces() {
            let part = match piece {
                Piece::Special(special) => special.name(),
                Piece::Text(part) | Piece::User(part) => part,
            };
            // Writing to a String cannot fail.
            let _ = text.write_str(part);
        }
        text
    }

    /// Qwen's template for `enable_thinking=True` and a generation prompt, which is what Z-Image was
    /// trained on, with the optional parts of the Python program around it.
    pub(crate) fn pieces(&self) -> Vec<Piece<'_>> {
        use {crate::chat::Special::*, Piece::*};

        let mut pieces = Vec::with_capacity(20);
        if !self.system.is_empty() {
            pieces.extend([Special(ImStart), Text("system\n"), Text(&self.system)]);
            pieces.extend([Special(ImEnd), Text("\n")]);
        }
        pieces.extend([Special(ImStart), Text("user\n"), User(&self.user)]);
        pieces.extend([Special(ImEnd), Text("\n"), Special(ImStart), Text("assistant\n")]);
        if self.has_think_block() {
            pieces.extend([Special(Think), Text("\n"), Text(&self.thinking), Text("\n")]);
            pieces.extend([Special(EndThink), Text("\n\n")]);
        }
        if !self.assistant.is_empty() {
            pieces.extend([Text(&self.assistant), Special(ImEnd)]);
        }
        pieces
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layouts_of_the_python_program() {
        let p = || Chat::user("P");
        let thinking = |t: &str| Chat { thinking: t.into(), ..p() };
        let plain = "<|im_start|>user\nP<|im_end|>\n<|im_start|>assistant\n";
        for (chat, expected) in [
            (p(), plain.to_owned()),
            (Chat { force_think_block: true, ..p() }, format!("{plain}<think>\n\n</think>\n\n")),
            (thinking("T"), format!("{plain}<think>\nT\n</think>\n\n")),
            (Chat { assistant: "A".into(), ..p() }, format!("{plain}A<|im_end|>")),
            (
                Chat { system: "S".into(), assistant: "A".into(), ..thinking("T") },
                format!(
                    "<|im_start|>system\nS<|im_end|>\n{plain}<think>\nT\n</think>\n\nA<|im_end|>"
                ),
            ),
            (Chat::user(""), "<|im_start|>user\n<|im_end|>\n<|im_start|>assistant\n".to_owned()),
        ] {
            assert_eq!(chat.render(), expected);
        }
    }

    #[test]
    fn the_negative_prompt_shares_the_think_block_alone() {
        let chat = Chat {
            user: "P".into(),
            system: "S".into(),
            thinking: "T".into(),
            assistant: "A".into(),
            force_think_block: false,
        };
        let block = Chat { force_think_block: true, ..Chat::user("N") };
        assert_eq!(chat.negative("N"), block);
        assert_eq!(block.negative("N"), block);
        assert_eq!(Chat::user("P").negative("N"), Chat::user("N"));
    }
}
