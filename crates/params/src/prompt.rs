//! The text that describes the picture.

use crate::ParamError;

/// Far above what any token limit keeps, far below what would hurt a tokenizer.
pub const MAX_PROMPT_BYTES: usize = 64 * 1024;

/// The prompt behind the trigger words of LoRAs: `words words prompt`. Empty words add nothing.
pub fn with_triggers<'a>(words: impl IntoIterator<Item = &'a str>, prompt: &'a str) -> String {
    let words = words.into_iter().filter(|words| !words.is_empty());
    words.chain(std::iter::once(prompt)).collect::<Vec<_>>().join(" ")
}

/// A prompt that says something and is of a sane size.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prompt(String);

impl Prompt {
    /// Refuses blank text. The text itself is kept as it is, white space included.
    ///
    /// # Errors
    ///
    /// [`ParamError`] if the text is blank or too long.
    pub fn parse(text: impl Into<String>) -> Result<Self, ParamError> {
        let text = text.into();
        if text.trim().is_empty() {
            return Err(ParamError::EmptyPrompt);
        }
        Self::checked("prompt", text)
    }

    /// As [`Prompt::parse`], but may be empty.
    ///
    /// # Errors
    ///
    /// [`ParamError`] if the text is too long.
    pub fn parse_negative(text: impl Into<String>) -> Result<Self, ParamError> {
        Self::checked("negative_prompt", text.into())
    }

    /// The prompt without double quotes, whose content Z-Image writes into the picture.
    ///
    /// # Errors
    ///
    /// [`ParamError::EmptyPrompt`] if only white space remains.
    pub fn without_quotes(self) -> Result<Self, ParamError> {
        Self::parse(self.0.replace('"', ""))
    }

    fn checked(name: &'static str, text: String) -> Result<Self, ParamError> {
        if text.len() > MAX_PROMPT_BYTES {
            return Err(ParamError::PromptTooLong { name, bytes: text.len() });
        }
        Ok(Self(text))
    }

    /// The prompt's text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The prompt's text, without a copy.
    pub fn into_string(self) -> String {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trigger_words_come_first_and_in_order() {
        assert_eq!(with_triggers([], " a fox"), " a fox");
        assert_eq!(with_triggers(["ink", "", "by hand"], "a fox"), "ink by hand a fox");
    }

    #[test]
    fn quotes_go_and_something_must_be_left() {
        let strip = |text: &str| Prompt::parse(text).expect("not blank").without_quotes();
        assert_eq!(strip("a sign \"OPEN\"'s").expect("left").as_str(), "a sign OPEN's");
        assert_eq!(strip("\" \""), Err(ParamError::EmptyPrompt));
    }
}
