//! Text files. Editors of some systems begin a file with a byte order mark, which is not part of
//! the text, or write UTF-16.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

const BOM: &[u8] = b"\xef\xbb\xbf";

/// Bytes that are no text for us.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotText {
    #[error("is UTF-16 text; save it as UTF-8")]
    Utf16,
    #[error("is not UTF-8 text (line {line})")]
    Utf8 { line: usize },
}

/// A text file that cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum TextError {
    #[error("cannot read {path}: {cause}")]
    Io { path: PathBuf, cause: io::Error },
    #[error("{path} {why}")]
    NotText { path: PathBuf, why: NotText },
}

/// A whole text file, without a byte order mark.
///
/// # Errors
///
/// [`TextError`] if the file cannot be read, or is not UTF-8.
pub fn read_text(path: &Path) -> Result<String, TextError> {
    let bytes = fs::read(path).map_err(|cause| TextError::Io { path: path.to_owned(), cause })?;
    text(bytes).map_err(|why| TextError::NotText { path: path.to_owned(), why })
}

/// The text of these bytes, without a byte order mark.
///
/// # Errors
///
/// [`NotText`] if they are not UTF-8.
pub fn text(mut bytes: Vec<u8>) -> Result<String, NotText> {
    if bytes.starts_with(b"\xff\xfe") || bytes.starts_with(b"\xfe\xff") {
        return Err(NotText::Utf16);
    }
    if bytes.starts_with(BOM) {
        bytes.drain(..BOM.len());
    }
    String::from_utf8(bytes).map_err(|error| {
        let good = &error.as_bytes()[..error.utf8_error().valid_up_to()];
        NotText::Utf8 { line: 1 + good.iter().filter(|&&byte| byte == b'\n').count() }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_is_not_text_and_other_encodings_are_named() {
        let of = |bytes: &[u8]| text(bytes.to_vec());
        assert_eq!(of(b"\xef\xbb\xbfa\n").as_deref(), Ok("a\n"));
        assert_eq!(of(b"").as_deref(), Ok(""));
        assert_eq!(of("a\u{feff}".as_bytes()).as_deref(), Ok("a\u{feff}"), "only at the start");
        assert_eq!(of(b"\xff\xfea\0"), Err(NotText::Utf16));
        assert_eq!(of(b"\xfe\xff\0a"), Err(NotText::Utf16));
        assert_eq!(of(b"a\nb\n\xe9"), Err(NotText::Utf8 { line: 3 }));
        let error = read_text(Path::new("no/such")).expect_err("missing").to_string();
        assert!(error.starts_with("cannot read no/such: "), "{error}");
    }
}
