//! The answer to `POST /v1/hidden_states`, with all its checks.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use llm_dit_proto::{DType, Tensor};
use serde::Deserialize;
use serde_json::value::RawValue;

/// The body of an answer, as far as we look at it.
#[derive(Deserialize)]
pub(crate) struct Answer<'a> {
    /// Base64 of little-endian f32 values, or the rows as numbers; `encoding_format` says which.
    #[serde(borrow)]
    hidden_states: &'a RawValue,
    shape: Vec<u64>,
    pub model: String,
    pub layer: i64,
    /// "mlx.core.bfloat16" and the like: what the values were computed in. They travel as f32.
    dtype: Option<String>,
    /// Absent when the values are numbers.
    encoding_format: Option<String>,
}

impl<'a> Answer<'a> {
    /// Reads the JSON body of an answer; strings are borrowed from it.
    ///
    /// # Errors
    ///
    /// The reason, if the body is not the JSON of hidden states.
    pub fn parse(body: &'a [u8]) -> Result<Self, String> {
        serde_json::from_slice(body)
            .map_err(|e| format!("it is not the JSON of hidden states: {e}"))
    }

    /// The type that holds every value as it was computed; f32 when the server does not say.
    pub fn computed_in(&self) -> DType {
        let name = self.dtype.as_deref().unwrap_or_default();
        // "mlx.core.bfloat16", though its documentation promises "bfloat16".
        name.rsplit('.').next().and_then(|name| name.parse().ok()).unwrap_or(DType::F32)
    }

    /// The values in f32, of shape (tokens, width).
    ///
    /// # Errors
    ///
    /// The reason, if the shape has not two axes of 1 or more, exceeds `max_length` tokens, or does
    /// not fit the values, or if a value is not finite.
    pub fn tensor(&self, max_length: usize) -> Result<Tensor, String> {
        let [tokens, width] = self.shape[..] else {
            return Err(format!("shape {:?} does not have two axes", self.shape));
        };
        if tokens == 0 || width == 0 {
            return Err(format!("shape {:?} has an empty axis", self.shape));
        }
        if tokens > max_length as u64 {
            return Err(format!("it has {tokens} tokens, but the request allowed {max_length}"));
        }
        let bytes = match self.encoding_format.as_deref() {
            Some("base64") => self.base64()?,
            None | Some("float") => self.rows(width)?,
            Some(other) => return Err(format!("encoding_format '{other}' is unknown")),
        };
        let (tokens, width) = (tokens as usize, usize::try_from(width).unwrap_or(usize::MAX));
        let tensor =
            Tensor::new(DType::F32, vec![tokens, width], bytes).map_err(|e| e.to_string())?;
        tensor.check_finite().map_err(|e| e.to_string())?;
        Ok(tensor)
    }

    fn base64(&self) -> Result<Bytes, String> {
        let text: String = serde_json::from_str(self.hidden_states.get())
            .map_err(|e| format!("hidden_states are not a string of base64: {e}"))?;
        STANDARD.decode(text).map(Bytes::from).map_err(|e| format!("bad base64: {e}"))
    }

    fn rows(&self, width: u64) -> Result<Bytes, String> {
        let rows: Vec<Vec<f32>> = serde_json::from_str(self.hidden_states.get())
            .map_err(|e| format!("hidden_states are not rows of numbers: {e}"))?;
        if let Some(row) = rows.iter().find(|row| row.len() as u64 != width) {
            return Err(format!("a row has {} numbers where the shape says {width}", row.len()));
        }
        Ok(rows.into_iter().flatten().flat_map(f32::to_le_bytes).collect())
    }
}

#[cfg(test)]
mod tests {
    use llm_dit_testkit::damage::{config, damaged_text};
    use proptest::proptest;

    use super::*;

    proptest! {
        #![proptest_config(config())]

        #[test]
        fn answers_are_read_or_refused(body in damaged_text(&[
            &answer("\"AADAPwAAAMA=\"", "[2,1]", r#","encoding_format":"base64","dtype":"mlx.core.bfloat16""#),
            &answer("[[1.5],[-2e30]]", "[2,1]", ""),
        ])) {
            if let Ok(answer) = Answer::parse(body.as_bytes())
                && let Ok(tensor) = answer.tensor(4)
            {
                let (tokens, width) = (tensor.shape()[0], tensor.shape()[1]);
                assert!(tokens <= 4 && tensor.bytes().len() == tokens * width * 4);
            }
        }
    }

    /// An answer of two tokens and width 1.
    fn answer(states: &str, shape: &str, rest: &str) -> String {
        format!(r#"{{"hidden_states":{states},"shape":{shape},"model":"m","layer":-2{rest}}}"#)
    }

    fn tensor(body: &str) -> Result<Tensor, String> {
        Answer::parse(body.as_bytes())?.tensor(4)
    }

    #[test]
    fn both_forms_hold_the_same_values() {
        let base64 = STANDARD.encode([1.5f32.to_le_bytes(), (-2.0f32).to_le_bytes()].concat());
        let base64 = answer(&format!("\"{base64}\""), "[2,1]", r#","encoding_format":"base64""#);
        let rows = answer("[[1.5],[-2]]", "[2,1]", "");
        let expected = Tensor::from_f32(&[1.5, -2.0], vec![2, 1], DType::F32).expect("whole");
        assert_eq!(tensor(&base64), Ok(expected.clone()));
        assert_eq!(tensor(&rows), Ok(expected));
    }

    #[test]
    fn the_type_is_read_from_its_python_name() {
        for (name, dtype) in [
            (r#","dtype":"mlx.core.bfloat16""#, DType::Bf16),
            (r#","dtype":"mlx.core.float16""#, DType::F16),
            (r#","dtype":"mlx.core.float32""#, DType::F32),
            (r#","dtype":"bfloat16""#, DType::Bf16),
            (r#","dtype":"mlx.core.complex64""#, DType::F32),
            ("", DType::F32),
        ] {
            let body = answer("[]", "[]", name);
            assert_eq!(Answer::parse(body.as_bytes()).expect("valid").computed_in(), dtype);
        }
    }

    #[test]
    fn what_does_not_hold_is_named() {
        let base64 = r#","encoding_format":"base64""#;
        for (body, reason) in [
            ("{".to_owned(), "not the JSON"),
            ("[]".to_owned(), "not the JSON"),
            (r#"{"shape":[2,1]}"#.to_owned(), "hidden_states"),
            (answer("[[1],[2]]", "[1,2,1]", ""), "two axes"),
            (answer("[[1],[2]]", "[2]", ""), "two axes"),
            (answer("[]", "[0,1]", ""), "empty axis"),
            (answer("[[],[]]", "[2,0]", ""), "empty axis"),
            (answer("[[1]]", "[5,1]", ""), "allowed 4"),
            (answer("[[1]]", "[2,1]", ""), "takes 8"),
            (answer("[[1],[2,3]]", "[2,1]", ""), "a row has 2"),
            (answer("[[1],[null]]", "[2,1]", ""), "not rows of numbers"),
            (answer("[[1],[1e60]]", "[2,1]", ""), "out of range"),
            (answer("[[1],[2]]", "[2,1]", base64), "not a string of base64"),
            (answer("\"AAAA*\"", "[2,1]", base64), "bad base64"),
            (answer("\"AAAAAA==\"", "[2,1]", base64), "takes 8"),
            (answer("\"AACAfwAAgD8=\"", "[2,1]", base64), "NaN or infinite"),
            (answer("\"AACAf\"", "[2,18446744073709551615]", base64), "bad"),
            (answer("\"AAAAAA==\"", "[2,18446744073709551615]", base64), "shape"),
            (answer("[[1],[2]]", "[2,1]", r#","encoding_format":"gzip""#), "'gzip' is unknown"),
        ] {
            let error = tensor(&body).expect_err(&body);
            assert!(error.contains(reason), "{body}: {error}");
        }
    }
}
