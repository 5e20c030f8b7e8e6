//! The text to draw.

use crate::ParamError;

/// Far above what any token limit keeps, far below what would hurt a tokenizer.
pub const MAX_PROMPT_BYTES: usize = 64 * 1024;

/// A prompt that says something and is of a sane size.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prompt(String);

impl Prompt {
    /// Refuses blank text. The text itself is kept as it is, white space included.
    pub fn parse(text: impl Into<String>) -> Result<Self, ParamError> {
        let text = text.into();
        if text.trim().is_empty() {
            return Err(ParamError::EmptyPrompt);
        }
        Self::checked("prompt", text)
    }

    /// As [`Prompt::parse`], but may be empty.
    pub fn parse_negative(text: impl Into<String>) -> Result<Self, ParamError> {
        Self::checked("negative_prompt", text.into())
    }

    fn checked(name: &'static str, text: String) -> Result<Self, ParamError> {
        if text.len() > MAX_PROMPT_BYTES {
            return Err(ParamError::PromptTooLong { name, bytes: text.len() });
        }
        Ok(Self(text))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    pub fn into_string(self) -> String {
        self.0
    }
}
