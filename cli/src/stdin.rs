//! Text from standard input.

use std::io::{self, IsTerminal as _, Read as _};

use crate::error::CliError;

/// The argument that stands for standard input.
pub const STDIN: &str = "-";

/// More than any prompt or file of prompts has.
const MAX_BYTES: u64 = 64 * 1024 * 1024;

/// All of standard input.
///
/// # Errors
///
/// [`CliError`] if it cannot be read, is too long or is not UTF-8.
pub fn read() -> Result<String, CliError> {
    let mut bytes = Vec::new();
    let limited = io::stdin().lock().take(MAX_BYTES + 1).read_to_end(&mut bytes);
    limited.map_err(|e| CliError::Usage(format!("cannot read stdin: {e}")))?;
    if bytes.len() as u64 > MAX_BYTES {
        return Err(CliError::Usage(format!("stdin has more than {MAX_BYTES} bytes")));
    }
    let text = llm_dit_text::decode(&bytes);
    text.map(str::to_owned).map_err(|e| CliError::Usage(format!("cannot read stdin: {e}")))
}

/// A prompt argument: itself, or standard input for `-`. With no argument, a pipe or a file on
/// standard input is the prompt; a terminal is not waited for.
///
/// # Errors
///
/// As [`read`].
pub fn prompt(argument: Option<String>) -> Result<Option<String>, CliError> {
    match argument {
        Some(argument) if argument == STDIN => read().map(|text| Some(one(&text))),
        Some(argument) => Ok(Some(argument)),
        None if io::stdin().is_terminal() => Ok(None),
        None => Ok(Some(one(&read()?)).filter(|text| !text.is_empty())),
    }
}

/// Without the line breaks that `echo` and editors put at the end.
fn one(text: &str) -> String {
    text.trim_end_matches(['\r', '\n']).to_owned()
}
