//! Errors of a configuration file.

use std::{io, path::PathBuf};

use llm_dit_params::nearest;

/// Names the file, the line and the way out.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    #[error("cannot read the configuration {path}: {cause}")]
    Io { path: PathBuf, cause: io::Error },
    #[error("{path} is not valid TOML: {cause}")]
    Toml { path: PathBuf, cause: String },
    #[error("{path}:{line}: {problem}")]
    Key { path: PathBuf, line: usize, problem: String },
    #[error("{path} has no profile '{profile}'{hint}")]
    Profile { path: PathBuf, profile: String, hint: String },
    #[error("--profile '{0}' needs a configuration file; name one with --config")]
    NoFile(String),
}

/// "; did you mean 'x'?" for a near miss, else "; there is a, b, c".
pub(crate) fn hint<'a>(name: &str, known: impl Iterator<Item = &'a str> + Clone) -> String {
    match nearest(name, known.clone()) {
        Some(k) => format!("; did you mean '{k}'?"),
        None => {
            let all: Vec<&str> = known.collect();
            if all.is_empty() { String::new() } else { format!("; there is {}", all.join(", ")) }
        }
    }
}
