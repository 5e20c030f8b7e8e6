//! Errors that end a command, and their exit codes.

use std::process::ExitCode;

use llm_dit_serving::args::EXIT_USAGE;

/// A message for the person, and with it the exit status.
#[derive(Debug, thiserror::Error)]
pub enum CliError {
    /// The command line, or a file that it names, asks for what cannot be.
    #[error("{0}")]
    Usage(String),
    /// Ctrl-C.
    #[error("interrupted; {0}")]
    Interrupted(String),
    #[error("{0}")]
    Failed(String),
}

impl CliError {
    /// 128 plus SIGINT is what shells report for an interrupted program.
    pub fn status(&self) -> ExitCode {
        ExitCode::from(match self {
            Self::Usage(_) => EXIT_USAGE,
            Self::Interrupted(_) => 130,
            Self::Failed(_) => 1,
        })
    }

    /// Ctrl-C before anything was made.
    pub fn interrupted() -> Self {
        Self::Interrupted("no image was written".to_owned())
    }

    /// An error of a command whose flags are right.
    pub fn failed(error: impl std::fmt::Display) -> Self {
        Self::Failed(error.to_string())
    }

    /// An error of the flags or of what they name.
    pub fn usage(error: impl std::fmt::Display) -> Self {
        Self::Usage(error.to_string())
    }
}
