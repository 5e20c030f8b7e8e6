//! Where a prompt that is over the token limit is cut.

use std::{fmt, str::FromStr};

use crate::{ParamError, excerpt};

/// The tokens that go when a chat has too many.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Truncation {
    /// Those at the end of the user's text, so that the header of the answer stays.
    #[default]
    Prompt,
    /// Those at the end of the whole chat, as diffusers' `truncation=True` does.
    End,
}

impl Truncation {
    /// All of them, the default first.
    pub const ALL: [Self; 2] = [Self::Prompt, Self::End];

    /// The name by which every door knows it.
    pub fn id(self) -> &'static str {
        match self {
            Self::Prompt => "prompt",
            Self::End => "end",
        }
    }
}

impl fmt::Display for Truncation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.id())
    }
}

impl FromStr for Truncation {
    type Err = ParamError;

    fn from_str(name: &str) -> Result<Self, ParamError> {
        Self::ALL.into_iter().find(|truncation| truncation.id() == name).ok_or_else(|| {
            let why = format!("'{}' is not known; use prompt or end", excerpt(name));
            ParamError::Invalid { name: "truncate", why }
        })
    }
}
