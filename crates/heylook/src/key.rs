//! The bearer key, which nobody gets to read.

use std::{fmt, fs, path::Path};

use reqwest::header::HeaderValue;

use crate::SetupError;

/// What the server was started with as `HEYLOOK_API_KEY`. Never printed, not even for debugging.
#[derive(Clone, PartialEq, Eq)]
pub struct ApiKey(String);

impl ApiKey {
    /// The first line of a file.
    pub fn from_file(path: &Path) -> Result<Self, SetupError> {
        let text = fs::read_to_string(path)
            .map_err(|cause| SetupError::KeyFile { path: path.to_owned(), cause })?;
        match text.lines().next().map(str::trim) {
            Some(key) if !key.is_empty() => Ok(Self(key.to_owned())),
            Some(_) | None => Err(SetupError::EmptyKeyFile { path: path.to_owned() }),
        }
    }

    /// `Authorization`, marked so that HTTP libraries do not print it either. `None` for an empty
    /// key, since an empty environment variable means that there is none.
    pub(crate) fn header(&self) -> Result<Option<HeaderValue>, SetupError> {
        if self.0.is_empty() {
            return Ok(None);
        }
        let mut value = HeaderValue::try_from(format!("Bearer {}", self.0))
            .map_err(|_| SetupError::UnsendableKey)?;
        value.set_sensitive(true);
        Ok(Some(value))
    }
}

/// Cannot fail, so that a command-line library has no reason to repeat the key in a message.
impl From<String> for ApiKey {
    fn from(key: String) -> Self {
        Self(key)
    }
}

impl fmt::Debug for ApiKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ApiKey(hidden)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_sent_but_never_shown() {
        let key = ApiKey::from("opensesame".to_owned());
        let header = key.header().expect("sendable").expect("not empty");
        assert_eq!(header.as_bytes(), b"Bearer opensesame");
        for shown in [format!("{key:?}"), format!("{header:?}")] {
            assert!(!shown.contains("opensesame"), "{shown}");
        }
        assert_eq!(ApiKey::from(String::new()).header().expect("fine"), None);
        let error = ApiKey::from("open\nsesame".to_owned()).header().expect_err("two lines");
        assert!(!error.to_string().contains("sesame"), "{error}");
    }
}
