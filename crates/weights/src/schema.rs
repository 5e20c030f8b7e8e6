//! What a configuration file of a model may say: every key is read, changes nothing, or is refused.
//!
//! A key that another program honours and this one does not would make another picture without a
//! word. So each file has a table of all keys that there are, and a key outside it is an error.

mod check;
mod json;
mod shared;
mod types;
mod words;

pub(crate) use self::json::parse;
pub use self::types::{Kind, Library, Rule, Schema};

#[cfg(test)]
mod tests;
