//! Text files as people's programs write them: UTF-8, with or without a byte order mark.
//!
//! Every text that is read from a file or a request goes through here, so a mark that an editor
//! put before the text is part of it nowhere.

use std::{fs, io, path::Path};

/// UTF-8's byte order mark.
const MARK: [u8; 3] = [0xef, 0xbb, 0xbf];

/// Why bytes are not text that is read here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotText {
    #[error("it is UTF-16 or UTF-32 text; save it as UTF-8")]
    Wide,
    #[error("line {line} is not UTF-8 text; save it as UTF-8")]
    NotUtf8 { line: usize },
}

impl NotText {
    /// The first line that is not text, counted from 1 as editors do.
    pub fn line(self) -> usize {
        match self {
            Self::Wide => 1,
            Self::NotUtf8 { line } => line,
        }
    }
}

/// The bytes after UTF-8's byte order mark, if they begin with one.
pub fn without_mark(bytes: &[u8]) -> &[u8] {
    bytes.strip_prefix(&MARK).unwrap_or(bytes)
}

/// The text that these bytes are, without a byte order mark.
///
/// # Errors
///
/// [`NotText`] if they are not UTF-8.
pub fn decode(bytes: &[u8]) -> Result<&str, NotText> {
    let bytes = without_mark(bytes);
    // Without a mark, wide text of ASCII letters shows by the zeros between them.
    if let [0xff, 0xfe, ..] | [0xfe, 0xff, ..] | [0, _, ..] | [_, 0, ..] = bytes {
        return Err(NotText::Wide);
    }
    std::str::from_utf8(bytes).map_err(|error| {
        let good = &bytes[..error.valid_up_to()];
        NotText::NotUtf8 { line: 1 + good.iter().filter(|&&byte| byte == b'\n').count() }
    })
}

/// [`decode`] for a whole file.
///
/// # Errors
///
/// The file's own error, or [`io::ErrorKind::InvalidData`] with a [`NotText`].
pub fn read(path: &Path) -> io::Result<String> {
    let bytes = fs::read(path)?;
    let text = decode(&bytes).map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))?;
    Ok(text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_byte_order_mark_is_no_text() {
        assert_eq!(decode(b"\xef\xbb\xbf{}"), Ok("{}"));
        assert_eq!(decode(b"{}"), Ok("{}"));
        assert_eq!(decode(b""), Ok(""));
        assert_eq!(decode(b"\xef\xbb\xbf"), Ok(""));
        // One mark is the writer's; what follows is the text's.
        assert_eq!(decode(b"\xef\xbb\xbf\xef\xbb\xbfx"), Ok("\u{feff}x"));
        assert_eq!(without_mark(b"\xef\xbb\xbf\xff"), b"\xff");
    }

    #[test]
    fn other_encodings_are_named() {
        let utf16 = |mark: bool, unit: fn(u16) -> [u8; 2]| {
            let text = if mark { "\u{feff}{}" } else { "{}" };
            text.encode_utf16().flat_map(unit).collect::<Vec<u8>>()
        };
        for mark in [true, false] {
            for unit in [u16::to_le_bytes, u16::to_be_bytes] {
                assert_eq!(decode(&utf16(mark, unit)), Err(NotText::Wide), "{mark}");
            }
        }
        assert_eq!(decode(b"\xff\xfe\0\0x\0\0\0"), Err(NotText::Wide));
        assert_eq!(decode(b"a\nb\ncaf\xe9"), Err(NotText::NotUtf8 { line: 3 }));
    }

    #[test]
    fn a_file_that_is_no_text_says_so() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("x.txt");
        fs::write(&path, b"\xef\xbb\xbfa fox").expect("written");
        assert_eq!(read(&path).expect("text"), "a fox");
        fs::write(&path, b"\xff\xfea\0").expect("written");
        assert!(read(&path).expect_err("UTF-16").to_string().contains("UTF-8"));
        let missing = read(&folder.path().join("y.txt")).expect_err("missing");
        assert_eq!(missing.kind(), io::ErrorKind::NotFound);
    }
}
