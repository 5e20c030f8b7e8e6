//! `llm-dit format`: prints the formatted prompt that the text encoder receives, and its token
//! counts.

use std::path::PathBuf;

use clap::Args;
use llm_dit_chat::{ChatTokenizer, TokenCounts};
use llm_dit_hub::CacheArgs;
use llm_dit_params::Prompt;
use serde::Serialize;

use crate::{
    args::{DEFAULT_MAX_TOKENS, PartArgs, TruncationArgs},
    error::CliError,
    local::model_folder,
    output::print,
    stdin,
};

#[derive(Clone, Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct FormatArgs {
    /// The prompt; - reads it from stdin, as does a pipe without a prompt
    pub prompt: Option<String>,
    /// Model folder whose tokenizer to use; nothing else in it is read [default: the demo model]
    #[arg(short, long, value_name = "DIR")]
    pub model_path: Option<PathBuf>,
    #[command(flatten)]
    pub cache: CacheArgs,
    #[command(flatten)]
    pub parts: PartArgs,
    /// Maximum prompt length in tokens
    #[arg(long, value_name = "N", default_value_t = DEFAULT_MAX_TOKENS)]
    pub max_tokens: usize,
    #[command(flatten)]
    pub truncation: TruncationArgs,
    /// Print everything as JSON
    #[arg(long)]
    pub json: bool,
}

const EXAMPLES: &str = "\
Examples:
  llm-dit format \"a red apple\" --template noir
  llm-dit format \"a red apple\" --json | jq .token_count";

#[derive(Serialize)]
struct Formatted {
    /// The whole formatted prompt, before truncation.
    formatted_prompt: String,
    char_count: usize,
    /// Tokens before truncation.
    token_count: usize,
    max_tokens: usize,
    tokens: TokenCounts,
    /// Where it is truncated: `prompt` or `end`.
    truncate: String,
    truncated: bool,
    truncated_tokens: usize,
}

/// Prints a prompt as the model sees it, with its number of tokens.
///
/// # Errors
///
/// [`CliError`] if the flags are wrong, if the tokenizer cannot be read, or if stdout cannot be
/// written.
pub fn format(args: &FormatArgs) -> Result<(), CliError> {
    let prompt = stdin::prompt(args.prompt.clone())?;
    let prompt = prompt.ok_or_else(|| CliError::Usage("give the prompt to format".into()))?;
    let prompt = Prompt::parse(prompt).map_err(CliError::usage)?;
    let chat = args.parts.chat(prompt)?;
    let named = args.model_path.as_deref().map(|path| args.cache.locate(path)).transpose();
    let folder = model_folder(named.map_err(CliError::usage)?.as_deref())?;
    let tokenizer =
        ChatTokenizer::from_folder(&folder.join("tokenizer")).map_err(CliError::usage)?;
    let tokens = tokenizer.count(&chat).map_err(CliError::failed)?;
    let truncation = args.truncation.truncate.unwrap_or_default();
    let fitted = tokenizer.tokenize_to(&chat, args.max_tokens, truncation);
    let fitted = fitted.map_err(CliError::usage)?;
    let formatted_prompt = chat.render();
    let formatted = Formatted {
        char_count: formatted_prompt.chars().count(),
        formatted_prompt,
        token_count: tokens.total,
        max_tokens: args.max_tokens,
        tokens,
        truncate: truncation.to_string(),
        truncated: fitted.truncated_tokens > 0,
        truncated_tokens: fitted.truncated_tokens,
    };
    if args.json {
        let json = serde_json::to_string_pretty(&formatted).map_err(CliError::failed)?;
        return print(&format!("{json}\n"));
    }
    print(&formatted.formatted_prompt)?;
    if !formatted.formatted_prompt.ends_with('\n') {
        print("\n")?;
    }
    // Beside the text, not in it, so that the text can be piped on.
    eprintln!("{}", formatted.summary());
    Ok(())
}

impl Formatted {
    /// Such as `31 tokens of 512: user 4, system 19, frame 8`.
    fn summary(&self) -> String {
        let TokenCounts { total, system, history, user, thinking, assistant, frame } = self.tokens;
        let parts = [
            ("user", user),
            ("system", system),
            ("history", history),
            ("thinking", thinking),
            ("assistant", assistant),
            ("frame", frame),
        ];
        let parts: Vec<String> = parts
            .into_iter()
            .filter(|(_, tokens)| *tokens > 0)
            .map(|(name, tokens)| format!("{name} {tokens}"))
            .collect();
        let mut line = format!("{total} tokens of {}: {}", self.max_tokens, parts.join(", "));
        if self.truncated {
            let n = self.truncated_tokens;
            let end = if self.truncate == "end" { "chat" } else { "prompt" };
            line.push_str(&format!("; {n} would be cut from the end of the {end}"));
        }
        line
    }
}
