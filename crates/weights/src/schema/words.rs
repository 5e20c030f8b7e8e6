//! The words of the messages.

use std::fmt;

use super::types::Kind;

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = match self {
            Self::Whole => "a whole number, 0 or more",
            Self::Number => "a number",
            Self::Switch => "true or false",
            Self::Text => "text",
            Self::TextList => "a list of texts",
            Self::Wholes => "a list of whole numbers, 0 or more",
            Self::Texts => "an object of texts",
            Self::NumbersByName => "an object of numbers",
            Self::Side => "a whole number or a list of them",
            Self::Numbers(n) => return write!(f, "a list of {n} numbers"),
            Self::Rows(n) => return write!(f, "a list of lists of {n} numbers"),
            Self::Table(_) => "an object",
            Self::Class(_) => "a list of a library and a class",
        };
        f.write_str(text)
    }
}

/// Values as a message lists them.
pub(super) fn list(values: &[&str]) -> String {
    values.join(" or ")
}

/// As much of a file's text as a message shows.
pub(super) fn excerpt(text: &str) -> String {
    llm_dit_params::excerpt(text)
}
