//! Headers of safetensors files that the library refuses.

use safetensors::tensor::TensorInfo;
use serde_json::Value;

/// What is wrong with a header, in words that its writer can act on.
pub(crate) fn problem(text: &[u8], error: &serde_json::Error) -> String {
    let header: Value = match serde_json::from_slice(text) {
        Ok(header) => header,
        Err(error) => return format!("its header is not JSON ({error})"),
    };
    let metadata = header.get("__metadata__").and_then(Value::as_object);
    let odd = metadata.into_iter().flatten().find(|(_, value)| !value.is_string());
    match odd {
        Some((key, value)) => {
            let value = llm_dit_params::excerpt(&value.to_string());
            format!(
                "'{key}' in its metadata is {value}, but metadata must be text; save the file again with str() around it"
            )
        }
        None if !header.is_object() => "its header is not a JSON object".into(),
        // An entry of a tensor: its type, its shape, its place.
        None => {
            let mut entries = header.as_object().into_iter().flatten();
            let odd = entries.find(|(key, entry)| {
                let is_metadata = *key == "__metadata__" && entry.is_object();
                !is_metadata && serde_json::from_value::<TensorInfo>((*entry).clone()).is_err()
            });
            match odd {
                Some((key, _)) => format!(
                    "the entry of '{key}' in its header is not a known dtype, a shape and data_offsets"
                ),
                None => format!("its header is not one of safetensors ({error})"),
            }
        }
    }
}

/// The header of a file that may not be one.
pub(crate) fn text(file: &[u8]) -> Option<&[u8]> {
    let (length, rest) = file.split_first_chunk()?;
    rest.get(..usize::try_from(u64::from_le_bytes(*length)).ok()?)
}

#[cfg(test)]
mod tests {
    use safetensors::tensor::Metadata;

    use super::*;

    #[test]
    fn what_is_wrong_is_said_without_the_librarys_words() {
        for (text, words) in [
            (r#"{"__metadata__": {"epoch": 3}}"#, "'epoch' in its metadata is 3"),
            (r#"{"__metadata__": {"config": {"a": 1}}}"#, "'config' in its metadata is {"),
            (r#"{"x": {"dtype": "F7", "shape": [], "data_offsets": [0, 4]}}"#, "entry of 'x'"),
            (r#"{"x": 3}"#, "entry of 'x'"),
            (r#"{"__metadata__": {"a": "b"}, "x": 3}"#, "entry of 'x'"),
            ("[]", "not a JSON object"),
            ("{", "not JSON"),
        ] {
            let error = serde_json::from_str::<Metadata>(text).expect_err(text);
            let said = problem(text.as_bytes(), &error);
            assert!(said.contains(words), "{text}: {said}");
            for word in ["struct", "invalid type", "variant"] {
                assert!(!said.contains(word), "{text}: {said}");
            }
        }
        assert_eq!(super::text(b"\x02\0\0\0\0\0\0\0{}data"), Some(&b"{}"[..]));
        assert_eq!(super::text(b"some text that is none"), None);
        assert_eq!(super::text(b""), None);
    }
}
