//! Where a setting comes from: a flag, an environment variable, a file, or its default.
//!
//! A program defines its flags once, with clap. This crate puts the other two sources under them:
//! every flag gets an environment variable, and the values of a TOML file's profile become the
//! defaults of the flags they belong to. clap then settles the precedence (flag over environment
//! over file), checks values the same way whatever their source, and remembers who won.
//!
//! Decision: `docs/decisions/0007-settings.md`.

mod environment;
mod error;
mod file;
mod keys;
mod origin;
mod parse;

pub use error::SettingsError;
pub use keys::{KEYS, Key, Kind, Use};
pub use origin::{Origin, Setting, Settings};
pub use parse::{Parsed, Program, command, parse, try_parse_from};
