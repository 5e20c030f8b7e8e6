//! How many tokens each part of a chat takes.

use crate::layout::Part;

/// Tokens by part; they sum to `total`. A token that holds text of two parts counts for the part in
/// which it begins.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct TokenCounts {
    pub total: usize,
    pub system: usize,
    /// Every text of earlier turns.
    pub history: usize,
    pub user: usize,
    pub thinking: usize,
    pub assistant: usize,
    /// Headers, line breaks and special tokens of the format itself.
    pub frame: usize,
}

impl TokenCounts {
    pub(crate) fn of(parts: &[Part]) -> Self {
        let mut counts = Self { total: parts.len(), ..Self::default() };
        for part in parts {
            *match part {
                Part::Frame => &mut counts.frame,
                Part::System => &mut counts.system,
                Part::History => &mut counts.history,
                Part::User => &mut counts.user,
                Part::Thinking => &mut counts.thinking,
                Part::Assistant => &mut counts.assistant,
            } += 1;
        }
        counts
    }
}
