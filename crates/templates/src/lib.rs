//! Prompt templates: Markdown files that fill the parts of a chat which the caller left open.
//!
//! Decision: the shipped templates are inside the binary, so that a name means the same wherever
//! the program runs. A folder adds to them, and replaces those whose name it uses.

mod front_matter;
mod library;
mod template;

pub use library::{Library, UnknownTemplate};
pub use template::{PREFIX, Template};

use std::path::PathBuf;

/// Why templates could not be loaded.
#[derive(Debug, thiserror::Error)]
pub enum TemplateError {
    #[error("cannot read {path}: {cause}")]
    Io { path: PathBuf, cause: std::io::Error },
    #[error("{path}, line {line}: {cause}")]
    Invalid { path: PathBuf, line: u64, cause: String },
    #[error("{path} contains no templates (files that end in .md)")]
    Empty { path: PathBuf },
    #[error("{first} and {second} are both named '{name}'; rename one of them")]
    Twice { name: String, first: PathBuf, second: PathBuf },
}
