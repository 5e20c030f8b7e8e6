//! Checksums that the hub names a file's content by.

use std::fmt;

use data_encoding::HEXLOWER;
use ring::digest::{Context, SHA1_FOR_LEGACY_USE_ONLY, SHA256};

/// The ETag of a file. Its digits are the name of the blob, so nothing but digits gets in.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Checksum {
    /// SHA-256 of the content: a file of Git LFS.
    Sha256(String),
    /// SHA-1 of git's blob: every other file.
    Git(String),
}

/// The content's checksum as it is read.
pub struct Hasher(Context);

impl Checksum {
    /// The checksum of an `ETag` header, with or without quotes; `None` for an ETag of another kind.
    pub fn from_etag(etag: &str) -> Option<Self> {
        let digits = etag.strip_prefix("W/").unwrap_or(etag).trim_matches('"');
        let lower = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
        if !digits.bytes().all(lower) {
            return None;
        }
        match digits.len() {
            64 => Some(Self::Sha256(digits.to_owned())),
            40 => Some(Self::Git(digits.to_owned())),
            _ => None,
        }
    }

    /// The digits, which are the blob's name.
    pub fn digits(&self) -> &str {
        match self {
            Self::Sha256(digits) | Self::Git(digits) => digits,
        }
    }

    /// Begins to hash a content of `size` bytes.
    pub fn hasher(&self, size: u64) -> Hasher {
        Hasher(match self {
            Self::Sha256(_) => Context::new(&SHA256),
            Self::Git(_) => {
                let mut context = Context::new(&SHA1_FOR_LEGACY_USE_ONLY);
                context.update(format!("blob {size}\0").as_bytes());
                context
            }
        })
    }

    /// Whether this is the checksum of what was hashed.
    pub fn matches(&self, hasher: Hasher) -> bool {
        HEXLOWER.encode(hasher.0.finish().as_ref()) == self.digits()
    }
}

impl Hasher {
    /// Adds the bytes that come next.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }
}

impl fmt::Display for Checksum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.digits())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checks(etag: &str, content: &[u8]) -> bool {
        let checksum = Checksum::from_etag(etag).expect("a checksum");
        let mut hasher = checksum.hasher(content.len() as u64);
        content.chunks(2).for_each(|part| hasher.update(part));
        checksum.matches(hasher)
    }

    #[test]
    fn contents_are_checked_as_git_and_lfs_name_them() {
        // `printf hello | git hash-object --stdin`, and `sha256sum`.
        assert!(checks("\"b6fc4c620b67d95f953a5c1c1230aaab5db5a1b0\"", b"hello"));
        assert!(checks(
            "\"2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824\"",
            b"hello"
        ));
        assert!(checks("W/\"e69de29bb2d1d6434b8b29ae775ad8c2e48c5391\"", b""));
        assert!(!checks("\"b6fc4c620b67d95f953a5c1c1230aaab5db5a1b0\"", b"hellp"));
    }

    #[test]
    fn other_etags_are_no_checksums() {
        let upper = "B6FC4C620B67D95F953A5C1C1230AAAB5DB5A1B0";
        for etag in
            ["", "\"\"", "abc", "../../etc/passwd", "d41d8cd98f00b204e9800998ecf8427e-5", upper]
        {
            assert_eq!(Checksum::from_etag(etag), None, "{etag}");
        }
        assert_eq!(Checksum::from_etag(&"/".repeat(40)), None);
    }
}
