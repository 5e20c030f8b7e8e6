//! The YAML between the first two lines of `---`.
//!
//! It is read together with its opening `---`, which YAML takes for the beginning of a document, so
//! that the lines in messages are the file's.

use std::collections::BTreeMap;

use serde::{Deserialize, de::DeserializeOwned};
use serde_json::Value;

/// The keys that mean something to us.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Keys {
    pub name: Option<String>,
    pub description: Option<String>,
    pub category: Option<String>,
    pub add_think_block: Option<bool>,
    pub thinking_content: Option<String>,
    pub assistant_content: Option<String>,
}

/// A line of the file, from 1, and what is wrong there.
pub(crate) type Flaw = (u64, String);

const KNOWN: [&str; 6] =
    ["name", "description", "category", "add_think_block", "thinking_content", "assistant_content"];

/// The front matter, empty if there is none, and the body.
pub(crate) fn split(text: &str) -> Result<(&str, &str), Flaw> {
    let mut lines = text.split_inclusive('\n');
    let is_fence = |line: &str| line.trim_end() == "---";
    let Some(opening) = lines.next().filter(|line| is_fence(line)) else {
        return Ok(("", text));
    };
    let mut end = opening.len();
    for line in lines {
        if is_fence(line) {
            return Ok((&text[..end], &text[end + line.len()..]));
        }
        end += line.len();
    }
    Err((1, "the front matter has no end; close it with a line of '---'".to_owned()))
}

pub(crate) fn keys(yaml: &str) -> Result<Keys, Flaw> {
    parse(yaml)
}

/// Everything else, kept as it is.
pub(crate) fn metadata(yaml: &str) -> Result<BTreeMap<String, Value>, Flaw> {
    let mut all: BTreeMap<String, Value> = parse(yaml)?;
    all.retain(|key, _| !KNOWN.contains(&key.as_str()));
    Ok(all)
}

fn parse<T: Default + DeserializeOwned>(yaml: &str) -> Result<T, Flaw> {
    let says_something = |line: &str| !line.trim().is_empty() && !line.starts_with('#');
    if !yaml.lines().skip(1).any(says_something) {
        return Ok(T::default());
    }
    serde_saphyr::from_str(yaml).map_err(|error| {
        let line = error.location().map_or(1, |location| location.line());
        let cause = error.without_snippet().to_string();
        (line, cause.lines().next().unwrap_or_default().to_owned())
    })
}
