//! serde's messages in the words of people who write JSON, TOML or forms.
//!
//! serde names Rust's types ("expected u64", "struct LoraBody"), of which a client knows nothing. Every
//! door gives its message through [`reword`], so that a value is refused in the same words everywhere.

use crate::{bounds::Bound, excerpt};

/// Two names of one field.
const ALIASES: [(&str, &str); 2] = [("steps", "num_inference_steps"), ("name", "path")];

/// A message of serde or of one of its formats. `field` is the name of the field that it is about,
/// where that is known. A place at the end of the message stays there.
pub fn reword(message: &str, field: Option<&str>) -> String {
    let (what, place) = split_place(message);
    let words = mismatch(what, field)
        .or_else(|| unknown(what))
        .or_else(|| duplicate(what))
        .or_else(|| broken(what))
        .unwrap_or_else(|| what.to_owned());
    words + place
}

/// "... at line 6 column 14" is what every format ends with that has lines.
fn split_place(message: &str) -> (&str, &str) {
    let Some(at) = message.rfind(" at line ") else { return (message, "") };
    let (what, place) = message.split_at(at);
    let is_place = place.split_ascii_whitespace().all(|word| {
        ["at", "line", "column"].contains(&word) || word.bytes().all(|b| b.is_ascii_digit())
    });
    if is_place { (what, place) } else { (message, "") }
}

/// "invalid type: integer `7`, expected a string".
fn mismatch(message: &str, field: Option<&str>) -> Option<String> {
    let kind = ["invalid type", "invalid value", "invalid length"]
        .into_iter()
        .find(|kind| message.starts_with(kind))?;
    let rest = message.strip_prefix(kind)?.trim_start_matches([':', ' ']);
    let (found, expected) = rest.rsplit_once(", expected ")?;
    let found = match kind {
        "invalid length" => format!("{found} values"),
        _ => found_words(found),
    };
    Some(format!("{kind}: {found}; use {}", expected_words(expected, field)))
}

fn found_words(found: &str) -> String {
    let quoted = |prefix: &str| Some(found.strip_prefix(prefix)?.trim_matches('`'));
    if let Some(number) = quoted("integer ").or_else(|| quoted("floating point ")) {
        return format!("number {number}");
    }
    if let Some(text) = quoted("boolean ").or_else(|| quoted("character ")) {
        return text.to_owned();
    }
    match found {
        "sequence" => "an array".to_owned(),
        "map" => "an object".to_owned(),
        "unit value" | "Option value" => "null".to_owned(),
        text => text.to_owned(),
    }
}

fn expected_words(expected: &str, field: Option<&str>) -> String {
    let is_number = is_integer(expected) || ["f32", "f64"].contains(&expected);
    if let Some(bound) = field.and_then(Bound::of).filter(|_| is_number) {
        return bound.to_string();
    }
    let words = match expected {
        "u8" => "a whole number from 0 to 255",
        "u16" => "a whole number from 0 to 65535",
        "u32" | "u64" | "u128" | "usize" => "a whole number from 0 up",
        text if is_integer(text) => "a whole number",
        "f32" | "f64" | "a floating point number" => "a number",
        "bool" | "a boolean" => "true or false",
        "a sequence" => "an array",
        "a map" | "a JSON object" => "an object",
        "unit" | "null" | "option" => "null",
        "str" | "string" | "a borrowed string" => "a string",
        text if text.starts_with("struct ") || text.starts_with("internally tagged enum") => {
            "an object"
        }
        text if text.starts_with("enum ") || text.starts_with("variant ") => {
            "one of the known words"
        }
        text if text.starts_with("tuple ") || text.starts_with("unit ") => "another kind of value",
        text => text,
    };
    words.to_owned()
}

fn is_integer(word: &str) -> bool {
    let digits = word.strip_prefix(['u', 'i']);
    digits.is_some_and(|digits| ["8", "16", "32", "64", "128", "size"].contains(&digits))
}

/// "unknown field `x`, expected one of `a`, `b`".
fn unknown(message: &str) -> Option<String> {
    let (kind, rest) = [("field", "unknown field `"), ("value", "unknown variant `")]
        .into_iter()
        .find_map(|(kind, prefix)| Some((kind, message.strip_prefix(prefix)?)))?;
    let (name, known) = match rest.rsplit_once("`, expected ") {
        Some((name, known)) => (name, known),
        None => (rest.split('`').next().unwrap_or(rest), ""),
    };
    let known: Vec<&str> = known.split('`').skip(1).step_by(2).collect();
    let name = excerpt(name);
    Some(match known[..] {
        [] => format!("unknown {kind} '{name}'"),
        _ => format!("unknown {kind} '{name}'; known are {}", known.join(", ")),
    })
}

/// "duplicate field `steps`", which may have been written under two names.
fn duplicate(message: &str) -> Option<String> {
    let name = message.strip_prefix("duplicate field `")?.trim_end_matches('`');
    let other = ALIASES.iter().find(|(field, _)| *field == name);
    Some(match other {
        Some((_, alias)) => {
            format!("{name} and {alias} are the same parameter, which is set twice; remove one")
        }
        None => format!("{name} is set twice; remove one"),
    })
}

/// Text that is no JSON.
fn broken(message: &str) -> Option<String> {
    let words = match message {
        "EOF while parsing a list" => "it ends in the middle of an array",
        "EOF while parsing an object" => "it ends in the middle of an object",
        "EOF while parsing a string" => "it ends in the middle of a string",
        "EOF while parsing a value" => "it ends where a value is expected",
        "expected value" => "a JSON value is expected",
        "expected ident" => "true, false or null is expected",
        "trailing characters" => "there is more text after the JSON value",
        "number out of range" => "a number is too large",
        "recursion limit exceeded" => "arrays or objects are nested too deep",
        "key must be a string" => "the name of a field must be in double quotes",
        text if text.starts_with("control character") => {
            "a string holds a line break or another control character; write \\n for a line break"
        }
        _ => return None,
    };
    Some(words.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_are_said_in_words_with_the_place_kept() {
        for (message, field, words) in [
            (
                "invalid value: integer `-1`, expected u64 at line 6 column 14",
                Some("seed"),
                "invalid value: number -1; use a whole number from 0 to 18446744073709551615, or leave it out for a random one at line 6 column 14",
            ),
            (
                "invalid type: floating point `2.5`, expected u32",
                Some("max_tokens"),
                "invalid type: number 2.5; use a whole number from 1 to 1504",
            ),
            (
                "invalid type: string \"x, expected u8\", expected f32 at line 1 column 2",
                None,
                "invalid type: string \"x, expected u8\"; use a number at line 1 column 2",
            ),
            (
                "invalid type: boolean `true`, expected a string",
                None,
                "invalid type: true; use a string",
            ),
            (
                "invalid type: sequence, expected struct LoraBody",
                None,
                "invalid type: an array; use an object",
            ),
            (
                "invalid type: map, expected a sequence",
                None,
                "invalid type: an object; use an array",
            ),
            (
                "invalid type: null, expected i32",
                Some("x"),
                "invalid type: null; use a whole number",
            ),
            (
                "invalid length 3, expected a tuple of size 2",
                None,
                "invalid length: 3 values; use a tuple of size 2",
            ),
            (
                "unknown field `nam`, expected one of `name`, `path` at line 1 column 9",
                None,
                "unknown field 'nam'; known are name, path at line 1 column 9",
            ),
            ("unknown variant `x`, expected `a` or `b`", None, "unknown value 'x'; known are a, b"),
            (
                "duplicate field `steps` at line 1 column 5",
                None,
                "steps and num_inference_steps are the same parameter, which is set twice; remove one at line 1 column 5",
            ),
            (
                "EOF while parsing a list at line 1 column 5",
                None,
                "it ends in the middle of an array at line 1 column 5",
            ),
            ("missing field `prompt`", None, "missing field `prompt`"),
            ("a text at line end", None, "a text at line end"),
        ] {
            assert_eq!(reword(message, field), words);
        }
    }
}
