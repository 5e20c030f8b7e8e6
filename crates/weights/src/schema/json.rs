//! JSON as Python writes it.

use std::borrow::Cow;

use serde_json::{Map, Value};

use super::words::excerpt;

/// The object that this text is. Python writes numbers without a value, such as
/// `"lambda_min_clipped": -Infinity`, in a way of its own; here they become texts.
///
/// # Errors
///
/// Why it is not valid, with line and column.
pub(crate) fn parse(text: &str) -> Result<Map<String, Value>, String> {
    let value: Value = serde_json::from_str(&quoted(text)).map_err(|e| e.to_string())?;
    match value {
        Value::Object(object) => Ok(object),
        other => Err(format!("it is {}, not an object", excerpt(&other.to_string()))),
    }
}

/// With quotes around the words that Python has for such numbers.
fn quoted(text: &str) -> Cow<'_, str> {
    const WORDS: [&str; 3] = ["-Infinity", "Infinity", "NaN"];
    if !WORDS.iter().any(|word| text.contains(word)) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 2 * WORDS.len());
    let (mut rest, mut in_string) = (text, false);
    while let Some(c) = rest.chars().next() {
        if !in_string && let Some(word) = WORDS.iter().find(|word| rest.starts_with(**word)) {
            out.extend(["\"", word, "\""]);
            rest = &rest[word.len()..];
            continue;
        }
        out.push(c);
        rest = &rest[c.len_utf8()..];
        match c {
            '"' => in_string = !in_string,
            '\\' if in_string => {
                let escaped = rest.chars().next();
                out.extend(escaped);
                rest = &rest[escaped.map_or(0, char::len_utf8)..];
            }
            _ => {}
        }
    }
    Cow::Owned(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pythons_numbers_become_texts_and_texts_stay() {
        let object = parse(r#"{"a": -Infinity, "b": [NaN, Infinity], "c\"NaN": "NaN \\"}"#);
        let object = object.expect("read");
        assert_eq!(object["a"], "-Infinity");
        assert_eq!(object["b"], serde_json::json!(["NaN", "Infinity"]));
        assert_eq!(object["c\"NaN"], "NaN \\");
    }

    #[test]
    fn what_is_no_object_is_said() {
        for (text, words) in [
            ("[1]", "it is [1], not an object"),
            ("", "EOF"),
            ("{\"a\": }", "line 1 column 7"),
            ("{\"a\": 1", "EOF"),
        ] {
            let error = parse(text).expect_err(text);
            assert!(error.contains(words), "{text}: {error}");
        }
    }
}
