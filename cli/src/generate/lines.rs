//! Files of prompts: a line a picture, as plain text or as a JSON object of settings.

use std::path::Path;

use llm_dit_recipe::Settings;
use serde_json::Value;

use crate::{error::CliError, files};

/// The one setting that is about a line and not about a picture.
const NUM_IMAGES: &str = "num_images";

/// One line that asks for pictures.
#[derive(Clone, Debug, PartialEq)]
pub struct Line {
    /// From 1, comments and empty lines counted.
    pub number: usize,
    pub settings: Settings,
    pub num_images: Option<u32>,
}

/// Reads a file of prompts. Empty lines and those that begin with `#` are skipped.
///
/// # Errors
///
/// [`CliError`] if the file cannot be read, contains no prompt, or has an invalid line.
pub fn read(path: &Path) -> Result<Vec<Line>, CliError> {
    let text = files::read_text(path)?;
    let mut lines = Vec::new();
    for (number, text) in (1..).zip(text.lines()) {
        let text = text.trim();
        if text.is_empty() || text.starts_with('#') {
            continue;
        }
        let line = if text.starts_with('{') {
            object(number, text).map_err(|why| {
                CliError::Usage(format!("{} line {number}: {why}", path.display()))
            })?
        } else {
            let settings = Settings { prompt: Some(text.to_owned()), ..Settings::default() };
            Line { number, settings, num_images: None }
        };
        lines.push(line);
    }
    if lines.is_empty() {
        return Err(CliError::Usage(format!("{} contains no prompt", path.display())));
    }
    Ok(lines)
}

fn object(number: usize, text: &str) -> Result<Line, String> {
    let mut object: serde_json::Map<String, Value> =
        serde_json::from_str(text).map_err(|e| explained(&e))?;
    let num_images = object
        .remove(NUM_IMAGES)
        .map(|value| match value.as_u64().and_then(|n| u32::try_from(n).ok()) {
            Some(n @ 1..=10_000) => Ok(n),
            _ => Err(format!("{NUM_IMAGES} {value} is out of range; use 1 to 10000")),
        })
        .transpose()?;
    let mut unknown = None;
    let settings = serde_ignored::deserialize(Value::Object(object), |key| {
        unknown.get_or_insert(key.to_string());
    });
    if let Some(key) = unknown {
        return Err(unknown_key(&key));
    }
    let settings: Settings = settings.map_err(|e: serde_json::Error| explained(&e))?;
    for (key, given) in [
        ("load_embeddings", settings.load_embeddings.is_some()),
        ("latents", settings.latents.is_some()),
    ] {
        if given {
            return Err(format!("{key} applies to one image and cannot be set per line"));
        }
    }
    Ok(Line { number, settings, num_images })
}

fn explained(error: &serde_json::Error) -> String {
    let words = llm_dit_params::reword(&error.to_string(), None);
    // The line is that of the file, which the caller names.
    match words.rsplit_once(" at line 1 column ") {
        Some((words, column)) => format!("{words} at column {column}"),
        None => words,
    }
}

fn unknown_key(key: &str) -> String {
    let shown = llm_dit_params::excerpt(key);
    let known = || Settings::NAMES.iter().copied().chain([NUM_IMAGES]);
    let nearest = llm_dit_params::nearest(&shown, known());
    let nearest = nearest.map(|n| format!("did you mean '{n}'? ")).unwrap_or_default();
    let known: Vec<&str> = known().collect();
    format!("unknown key '{shown}'; {nearest}known are {}", known.join(", "))
}

#[cfg(test)]
mod tests {
    use llm_dit_testkit::damage::{config, damaged_text};
    use proptest::proptest;

    use super::*;

    proptest! {
        #![proptest_config(config())]

        #[test]
        fn lines_are_read_or_refused(text in damaged_text(&[
            r#"{"prompt": "a fox", "steps": 4, "num_images": 2, "seed": 18446744073709551615}"#,
            r#"{"width": 64, "shift": 3.0, "scheduler": "unipc", "strip_quotes": true}"#,
        ])) {
            if let Ok(line) = object(1, &text) {
                assert!(line.num_images.is_none_or(|n| n > 0));
            }
        }
    }

    fn lines(text: &str) -> Result<Vec<Line>, String> {
        let file = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(file.path(), text).expect("ours");
        read(file.path()).map_err(|e| e.to_string())
    }

    #[test]
    fn prompts_objects_and_comments() {
        let text = "# two pictures\n\na red apple\r\n  {\"prompt\": \"x\", \"num_inference_steps\": 4, \"num_images\": 2, \"seed\": 18446744073709551615}\n";
        let lines = lines(text).expect("valid");
        assert_eq!(lines.len(), 2);
        assert_eq!((lines[0].number, lines[1].number), (3, 4));
        assert_eq!(lines[0].settings.prompt.as_deref(), Some("a red apple"));
        assert_eq!(lines[1].settings.steps, Some(4));
        assert_eq!((lines[1].settings.seed, lines[1].num_images), (Some(u64::MAX), Some(2)));
    }

    #[test]
    fn mistakes_are_named_with_their_line() {
        for (text, words) in [
            ("x\n{\"widht\": 64}", "line 2: unknown key 'widht'; did you mean 'width'?"),
            ("{\"width\": \"big\"}", "line 1: invalid type"),
            ("{\"width\": -1}", "line 1: invalid value"),
            ("\n{\"prompt\": ", "line 2: it ends where a value is expected at column"),
            ("{\"num_images\": 0}", "num_images 0 is out of range"),
            ("{\"latents\": \"x\"}", "latents applies to one image"),
            ("# nothing", "contains no prompt"),
        ] {
            let error = lines(text).expect_err("wrong");
            assert!(error.contains(words), "{error}");
        }
    }
}
