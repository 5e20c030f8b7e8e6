//! Flags of the chat template.

use std::path::PathBuf;

use clap::{ArgAction, Args};
use llm_dit_chat::{Chat, ChatOptions};
use llm_dit_params::{Prompt, Truncation, bounds::TOKENS};
use llm_dit_templates::{Library, Template};

use crate::error::CliError;

/// The second to last hidden state, which Z-Image was trained on.
pub const DEFAULT_HIDDEN_LAYER: i32 = -2;
/// Token limit of a prompt, as in diffusers' pipeline.
pub const DEFAULT_MAX_TOKENS: usize = 512;

/// The other parts of the chat template, and how it is encoded.
#[derive(Clone, Debug, Args)]
pub struct ChatArgs {
    #[command(flatten)]
    pub parts: PartArgs,
    /// Hidden state of the text encoder that conditions the image, indexed as in transformers
    #[arg(long, value_name = "INDEX", allow_hyphen_values = true, default_value_t = DEFAULT_HIDDEN_LAYER)]
    pub hidden_layer: i32,
    /// Maximum prompt length in tokens; longer prompts are truncated, and a note says so
    #[arg(long, value_name = "N", default_value_t = DEFAULT_MAX_TOKENS)]
    pub max_tokens: usize,
    #[command(flatten)]
    pub truncation: TruncationArgs,
}

/// Where a long prompt is cut.
#[derive(Clone, Copy, Debug, Default, Args)]
pub struct TruncationArgs {
    /// Where a prompt over --max-tokens is truncated: prompt (at the end of the prompt) or end (at
    /// the end of the whole chat, as in diffusers) [default: prompt; heylookitsanllm: end]
    #[arg(long, value_name = "WHERE")]
    pub truncate: Option<Truncation>,
}

/// The other parts of the chat template.
#[derive(Clone, Debug, Args)]
pub struct PartArgs {
    /// Prompt template, such as photorealistic; `llm-dit templates` lists them
    #[arg(short, long, value_name = "NAME")]
    pub template: Option<String>,
    #[command(flatten)]
    pub library: LibraryArgs,
    /// System prompt [default: the template's]
    #[arg(long, value_name = "TEXT")]
    pub system_prompt: Option<String>,
    /// Content of the think block [default: the template's]
    #[arg(long, value_name = "TEXT")]
    pub thinking_content: Option<String>,
    /// Start of the assistant's turn [default: the template's]
    #[arg(long, value_name = "TEXT")]
    pub assistant_content: Option<String>,
    /// Write the think block even if it is empty
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true", default_value_t = false,
          require_equals = true, action = ArgAction::Set, hide_default_value = true, hide_possible_values = true)]
    pub force_think_block: bool,
    /// Write the think block, or omit it with =false. Overrides --force-think-block,
    /// --thinking-content and the template
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true", require_equals = true,
          hide_possible_values = true)]
    pub enable_thinking: Option<bool>,
    /// Remove double quotes from the prompt. Z-Image renders quoted words as text in the image
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true", default_value_t = false,
          require_equals = true, action = ArgAction::Set, hide_default_value = true, hide_possible_values = true)]
    pub strip_quotes: bool,
    /// Tokenize special tokens in prompts (such as <|im_end|>) as special tokens instead of plain
    /// text
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true", default_value_t = false,
          require_equals = true, action = ArgAction::Set, hide_default_value = true, hide_possible_values = true)]
    pub raw_special_tokens: bool,
}

/// The template folder.
#[derive(Clone, Debug, Args)]
pub struct LibraryArgs {
    /// Folder of additional prompt templates; a template with the name of a built-in one replaces
    /// it
    #[arg(long, value_name = "DIR", global = true)]
    pub templates_dir: Option<PathBuf>,
}

impl ChatArgs {
    /// The conversation around a prompt.
    ///
    /// # Errors
    ///
    /// As [`PartArgs::chat`], or if the limit of tokens is out of bounds.
    pub fn chat(&self, prompt: Prompt) -> Result<Chat, CliError> {
        if !TOKENS.allows(self.max_tokens as u64) {
            return Err(CliError::Usage(TOKENS.out_of_range(self.max_tokens)));
        }
        self.parts.chat(prompt)
    }
}

impl PartArgs {
    /// The conversation around a prompt, with what the template adds.
    ///
    /// # Errors
    ///
    /// [`CliError`] if the template is unknown or cannot be read, or if nothing remains of the
    /// prompt without its quotes.
    pub fn chat(&self, mut prompt: Prompt) -> Result<Chat, CliError> {
        if self.strip_quotes {
            prompt = prompt.without_quotes().map_err(CliError::usage)?;
        }
        let said = ChatOptions {
            system: self.system_prompt.clone(),
            thinking: self.thinking_content.clone(),
            assistant: self.assistant_content.clone(),
            enable_thinking: self.enable_thinking,
            force_think_block: self.force_think_block,
            raw_special_tokens: self.raw_special_tokens,
        };
        let options = match self.template()? {
            Some(template) => template.fill(said),
            None => said,
        };
        Ok(options.chat(prompt.into_string()))
    }

    /// The template that the flags name.
    ///
    /// # Errors
    ///
    /// [`CliError`] if the templates cannot be read, or if there is none of this name.
    pub fn template(&self) -> Result<Option<Template>, CliError> {
        let Some(name) = &self.template else { return Ok(None) };
        let library = self.library.load()?;
        library.get(name).cloned().map(Some).map_err(CliError::usage)
    }
}

impl LibraryArgs {
    /// The shipped templates and those of `--templates-dir`.
    ///
    /// # Errors
    ///
    /// [`CliError`] if the folder or one of its templates cannot be read.
    pub fn load(&self) -> Result<Library, CliError> {
        Library::load(self.templates_dir.as_deref()).map_err(CliError::usage)
    }
}
