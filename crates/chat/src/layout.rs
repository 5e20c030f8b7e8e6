//! A chat as a sequence of pieces, which is the only place that knows the format.

use crate::{Chat, Exchange};

/// The tokens that give a chat its shape.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Special {
    ImStart,
    ImEnd,
    Think,
    EndThink,
}

/// The part of the chat that a piece belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    /// Headers, line breaks and special tokens.
    Frame,
    System,
    /// Every text of earlier turns.
    History,
    /// The only text that may be cut to fit the token budget.
    User,
    Thinking,
    Assistant,
}

/// What a chat is made of. Neighbouring texts are one string to the tokenizer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Piece<'a> {
    Special(Special),
    Text(Part, &'a str),
}

/// An answer's turn.
struct Answer<'a> {
    think: Option<(Part, &'a str)>,
    text: (Part, &'a str),
    closed: bool,
}

use Piece::{Special as Token, Text};
use Special::{EndThink, ImEnd, ImStart, Think};

impl Special {
    /// Every special token of the layout.
    #[cfg(feature = "tokenizer")]
    pub const ALL: [Self; 4] = [Self::ImStart, Self::ImEnd, Self::Think, Self::EndThink];

    /// The token's text, as the vocabulary spells it.
    pub fn name(self) -> &'static str {
        match self {
            Self::ImStart => "<|im_start|>",
            Self::ImEnd => "<|im_end|>",
            Self::Think => "<think>",
            Self::EndThink => "</think>",
        }
    }
}

impl Chat {
    /// The conversation as a person reads it, special tokens by name.
    pub fn render(&self) -> String {
        let piece = |piece| match piece {
            Token(special) => special.name(),
            Text(_, text) => text,
        };
        self.pieces().into_iter().map(piece).collect()
    }

    /// Qwen's template for `enable_thinking=True` and a generation prompt, which is what Z-Image was
    /// trained on, with the optional parts of the Python program around it. Turns are joined by one
    /// line break; there is none after the last.
    pub(crate) fn pieces(&self) -> Vec<Piece<'_>> {
        let block = self.has_think_block();
        let mut pieces = Vec::with_capacity(20 + 20 * self.history.len());
        if !self.system.is_empty() {
            pieces.extend([Token(ImStart), frame("system\n"), Text(Part::System, &self.system)]);
            pieces.extend([Token(ImEnd), frame("\n")]);
        }
        for Exchange { user, thinking, assistant } in &self.history {
            push_user(&mut pieces, Part::History, user);
            let answer = Answer {
                think: block.then_some((Part::History, thinking.as_str())),
                text: (Part::History, assistant),
                closed: true,
            };
            answer.push(&mut pieces);
            pieces.push(frame("\n"));
        }
        push_user(&mut pieces, Part::User, &self.user);
        let answer = Answer {
            think: block.then_some((Part::Thinking, self.thinking.as_str())),
            text: (Part::Assistant, &self.assistant),
            closed: self.close_turn || !self.assistant.is_empty(),
        };
        answer.push(&mut pieces);
        pieces
    }
}

impl<'a> Answer<'a> {
    fn push(self, pieces: &mut Vec<Piece<'a>>) {
        pieces.extend([Token(ImStart), frame("assistant\n")]);
        if let Some((part, content)) = self.think {
            pieces.extend([Token(Think), frame("\n"), Text(part, content), frame("\n")]);
            pieces.extend([Token(EndThink), frame("\n\n")]);
        }
        let (part, text) = self.text;
        pieces.push(Text(part, text));
        if self.closed {
            pieces.push(Token(ImEnd));
        }
    }
}

fn push_user<'a>(pieces: &mut Vec<Piece<'a>>, part: Part, text: &'a str) {
    pieces.extend([Token(ImStart), frame("user\n"), Text(part, text)]);
    pieces.extend([Token(ImEnd), frame("\n")]);
}

fn frame(text: &'static str) -> Piece<'static> {
    Text(Part::Frame, text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ThinkBlock;

    const PLAIN: &str = "<|im_start|>user\nP<|im_end|>\n<|im_start|>assistant\n";

    fn prompt() -> Chat {
        Chat::user("P")
    }

    fn thinking() -> Chat {
        Chat { thinking: "T".into(), ..prompt() }
    }

    /// Every row of the table that the Python program's formatter follows.
    #[test]
    fn layouts_of_the_python_program() {
        let (on, off) = (ThinkBlock::On, ThinkBlock::Off);
        for (chat, expected) in [
            (prompt(), PLAIN.to_owned()),
            (Chat { think_block: off, ..prompt() }, PLAIN.to_owned()),
            (Chat { think_block: on, ..prompt() }, format!("{PLAIN}<think>\n\n</think>\n\n")),
            (thinking(), format!("{PLAIN}<think>\nT\n</think>\n\n")),
            (Chat { think_block: on, ..thinking() }, format!("{PLAIN}<think>\nT\n</think>\n\n")),
            (Chat { think_block: off, ..thinking() }, PLAIN.to_owned()),
            (Chat { assistant: "A".into(), ..prompt() }, format!("{PLAIN}A<|im_end|>")),
            (
                Chat { system: "S".into(), assistant: "A".into(), ..thinking() },
                format!(
                    "<|im_start|>system\nS<|im_end|>\n{PLAIN}<think>\nT\n</think>\n\nA<|im_end|>"
                ),
            ),
            (Chat::user(""), "<|im_start|>user\n<|im_end|>\n<|im_start|>assistant\n".to_owned()),
            (
                Chat { think_block: on, close_turn: true, ..prompt() },
                format!("{PLAIN}<think>\n\n</think>\n\n<|im_end|>"),
            ),
            (Chat { close_turn: true, ..prompt() }, format!("{PLAIN}<|im_end|>")),
        ] {
            assert_eq!(chat.render(), expected, "{chat:?}");
        }
    }

    #[test]
    fn every_answer_has_a_think_block_or_none_has() {
        let turn = |thinking: &str| Exchange {
            user: "U".into(),
            thinking: thinking.into(),
            assistant: "A".into(),
        };
        let chat = |think_block, thinking: &str| Chat {
            history: vec![turn(""), turn(thinking)],
            think_block,
            ..prompt()
        };
        let earlier = |block: &str| {
            format!("<|im_start|>user\nU<|im_end|>\n<|im_start|>assistant\n{block}A<|im_end|>\n")
        };
        let (empty, full) = ("<think>\n\n</think>\n\n", "<think>\nT\n</think>\n\n");
        let none = format!("{}{}{PLAIN}", earlier(""), earlier(""));
        assert_eq!(chat(ThinkBlock::Auto, "").render(), none);
        assert_eq!(chat(ThinkBlock::Off, "T").render(), none);
        let every = format!("{}{}{PLAIN}{empty}", earlier(empty), earlier(full));
        assert_eq!(chat(ThinkBlock::Auto, "T").render(), every);
        assert_eq!(chat(ThinkBlock::On, "T").render(), every);
    }
}
