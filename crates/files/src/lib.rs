//! Files that a person names, written completely or not at all.
//!
//! Every writer of the workspace is here, so that all of them treat links, devices and permissions
//! alike.

mod output;
mod target;

pub use output::{Published, Staged, WriteError, check_writable, stage, stage_private, write};
pub use target::{STDOUT, is_stdout, is_stream};
