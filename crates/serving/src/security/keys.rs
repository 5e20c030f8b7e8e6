//! Bearer keys: those that a service accepts, and the one that a client sends. Neither is ever
//! printed.

use std::{fmt, path::Path, sync::Arc};

use http::HeaderValue;
use sha2::{Digest as _, Sha256};
use subtle::{Choice, ConstantTimeEq as _};

use super::{SecurityError, read};

/// Shorter ones could be guessed.
pub const MIN_KEY_LENGTH: usize = 16;

type Hash = [u8; 32];

/// A key to show. Never printed, not even for debugging.
#[derive(Clone, PartialEq, Eq)]
pub struct Key(String);

/// A key that no HTTP header can carry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the key contains characters that are not allowed in an HTTP header")]
pub struct Unsendable;

/// Keys that are taken. Only their hashes are kept.
#[derive(Clone)]
pub struct Keys(Arc<[Accepted]>);

/// One of them.
struct Accepted {
    /// Name of the key's owner, for the log.
    name: Arc<str>,
    key: Hash,
    session: Hash,
}

/// Why a request is not accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    #[error("an API key is required; send it as `Authorization: Bearer KEY`")]
    Missing,
    #[error("unknown API key; the --keys file of this server lists the accepted keys")]
    Wrong,
}

impl Key {
    /// Reads the key from the first line of a file.
    ///
    /// # Errors
    ///
    /// [`SecurityError`] if the file cannot be read or its first line is empty.
    pub fn from_file(path: &Path) -> Result<Self, SecurityError> {
        match read(path)?.lines().next().map(str::trim) {
            Some(key) if !key.is_empty() => Ok(Self(key.to_owned())),
            Some(_) | None => Err(SecurityError::Keys {
                path: path.to_owned(),
                why: "its first line is empty, where the key should be".to_owned(),
            }),
        }
    }

    /// A key from the system's random generator.
    pub fn random() -> Self {
        // Two random UUIDs hold 244 random bits.
        Self(format!("{}{}", uuid::Uuid::new_v4().simple(), uuid::Uuid::new_v4().simple()))
    }

    /// To be written into a file, or given to a library.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// The `Authorization` header, marked sensitive so that HTTP libraries do not print it. `None`
    /// for an empty key, since an empty environment variable means no key.
    ///
    /// # Errors
    ///
    /// [`Unsendable`] if the key has characters that a header cannot carry.
    pub fn header(&self) -> Result<Option<HeaderValue>, Unsendable> {
        if self.0.is_empty() {
            return Ok(None);
        }
        let value = HeaderValue::try_from(format!("Bearer {}", self.0));
        let mut value = value.map_err(|_| Unsendable)?;
        value.set_sensitive(true);
        Ok(Some(value))
    }
}

/// Cannot fail, so that a command-line library has no reason to repeat the key in a message.
impl From<String> for Key {
    fn from(key: String) -> Self {
        Self(key)
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key(hidden)")
    }
}

impl Keys {
    /// Reads one key a line, preceded by its owner's name if there are two words. Empty lines and
    /// lines that begin with `#` are skipped.
    ///
    /// # Errors
    ///
    /// [`SecurityError`] if the file cannot be read, contains no key, or a line is malformed or its
    /// key too short.
    pub fn from_file(path: &Path) -> Result<Self, SecurityError> {
        let bad = |why: String| SecurityError::Keys { path: path.to_owned(), why };
        let mut accepted = Vec::new();
        for (i, line) in read(path)?.lines().enumerate() {
            let number = i + 1;
            let words: Vec<&str> = line.split_whitespace().collect();
            let (name, key) = match words[..] {
                [] => continue,
                [first, ..] if first.starts_with('#') => continue,
                [key] => (format!("line {number}"), key),
                [name, key] => (name.to_owned(), key),
                _ => {
                    return Err(bad(format!("line {number} has more than a name and a key")));
                }
            };
            if key.len() < MIN_KEY_LENGTH || !key.bytes().all(|byte| byte.is_ascii_graphic()) {
                return Err(bad(format!(
                    "line {number}: a key must have at least {MIN_KEY_LENGTH} letters, digits or signs of ASCII"
                )));
            }
            accepted.push(Accepted::new(name, key));
        }
        if accepted.is_empty() {
            return Err(bad("it contains no key".to_owned()));
        }
        Ok(Self(accepted.into()))
    }

    /// Accepts this key alone.
    pub fn only(name: &str, key: &Key) -> Self {
        Self([Accepted::new(name.to_owned(), &key.0)].into())
    }

    /// The name of the key in an `Authorization` header.
    ///
    /// # Errors
    ///
    /// `Denied` if the header is missing, is no bearer token, or has an unknown key.
    pub fn check(&self, authorization: Option<&HeaderValue>) -> Result<Arc<str>, Denied> {
        let header = authorization.ok_or(Denied::Missing)?.to_str().map_err(|_| Denied::Wrong)?;
        let (scheme, key) = header.split_once(' ').ok_or(Denied::Wrong)?;
        if !scheme.eq_ignore_ascii_case("bearer") {
            return Err(Denied::Missing);
        }
        self.check_key(key.trim())
    }

    /// The name of this key.
    ///
    /// # Errors
    ///
    /// `Denied::Wrong` if the key is unknown.
    pub fn check_key(&self, key: &str) -> Result<Arc<str>, Denied> {
        self.find(&hash(key.as_bytes()), |accepted| accepted.key)
    }

    /// What proves that the owner of a key began this session, whose number is used once. It ends
    /// with the key, and does not tell it.
    pub fn seal(key: &str, session: &[u8; 32]) -> [u8; 32] {
        seal(&session_of(key), session)
    }

    /// The name of the key that sealed a session.
    ///
    /// # Errors
    ///
    /// `Denied::Wrong` if no key did.
    pub fn check_seal(&self, session: &[u8; 32], shown: &[u8; 32]) -> Result<Arc<str>, Denied> {
        self.find(shown, |accepted| seal(&accepted.session, session))
    }

    /// Looks at all of them in any case, and at all of each, so that the time says nothing.
    fn find(&self, shown: &Hash, of: impl Fn(&Accepted) -> Hash) -> Result<Arc<str>, Denied> {
        let mut found = None;
        for accepted in self.0.iter() {
            let same: Choice = of(accepted).ct_eq(shown);
            if bool::from(same) {
                found = Some(Arc::clone(&accepted.name));
            }
        }
        found.ok_or(Denied::Wrong)
    }
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = self.0.iter().map(|accepted| &accepted.name);
        f.debug_list().entries(names).finish()
    }
}

impl Accepted {
    fn new(name: String, key: &str) -> Self {
        Self { name: name.into(), key: hash(key.as_bytes()), session: session_of(key) }
    }
}

fn hash(bytes: &[u8]) -> Hash {
    Sha256::digest(bytes).into()
}

/// Both have a fixed length, so no longer message has a seal that follows from this one.
fn seal(secret: &Hash, session: &[u8; 32]) -> Hash {
    Sha256::new().chain_update(secret).chain_update(session).finalize().into()
}

fn session_of(key: &str) -> Hash {
    Sha256::new().chain_update("llm-dit session\n").chain_update(key).finalize().into()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    const ALICE: &str = "alice-0123456789abcdef";
    const BOB: &str = "bob-0123456789abcdef";

    fn keys(text: &str) -> Result<Keys, String> {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("keys");
        fs::write(&path, text).expect("written");
        Keys::from_file(&path).map_err(|error| error.to_string())
    }

    fn bearer(key: &str) -> HeaderValue {
        Key::from(key.to_owned()).header().expect("sendable").expect("not empty")
    }

    #[test]
    fn a_key_opens_and_a_wrong_one_does_not() {
        let keys = keys(&format!("# who may ask\n\nalice {ALICE}\n{BOB}\n")).expect("valid");
        assert_eq!(keys.check(Some(&bearer(ALICE))).as_deref(), Ok("alice"));
        assert_eq!(keys.check(Some(&bearer(BOB))).as_deref(), Ok("line 4"));
        let lower = HeaderValue::try_from(format!("bearer  {ALICE} ")).expect("a header");
        assert_eq!(keys.check(Some(&lower)).as_deref(), Ok("alice"));
        assert_eq!(keys.check(None), Err(Denied::Missing));
        assert_eq!(keys.check(Some(&HeaderValue::from_static("Basic YTpi"))), Err(Denied::Missing));
        for wrong in ["Bearer", "Bearer ", "Bearer x", "", "\u{e9}"] {
            let header = HeaderValue::from_bytes(wrong.as_bytes()).expect("a header");
            assert_eq!(keys.check(Some(&header)), Err(Denied::Wrong), "{wrong:?}");
        }
        assert_eq!(keys.check(Some(&bearer(&ALICE[..ALICE.len() - 1]))), Err(Denied::Wrong));
    }

    #[test]
    fn a_seal_stands_for_its_key_and_its_session() {
        let keys = keys(&format!("alice {ALICE}")).expect("valid");
        let (session, other) = ([7; 32], [8; 32]);
        let sealed = Keys::seal(ALICE, &session);
        assert_eq!(keys.check_seal(&session, &sealed).as_deref(), Ok("alice"));
        assert_eq!(keys.check_seal(&other, &sealed), Err(Denied::Wrong));
        assert_eq!(keys.check_seal(&session, &Keys::seal(BOB, &session)), Err(Denied::Wrong));
    }

    #[test]
    fn files_that_let_nobody_in_or_anybody_are_refused() {
        for (text, why) in [
            ("", "no key"),
            ("# alice\n", "no key"),
            ("short", "at least 16"),
            ("a b c-0123456789abcdef", "more than"),
            ("alice 0123456789abcdef\u{e9}", "ASCII"),
        ] {
            let message = keys(text).expect_err("refused");
            assert!(message.contains(why), "{message}");
        }
    }

    #[test]
    fn a_key_is_sent_but_never_shown() {
        let key = Key::from("opensesame".to_owned());
        let header = key.header().expect("sendable").expect("not empty");
        assert_eq!(header.as_bytes(), b"Bearer opensesame");
        let keys = keys(&format!("alice {ALICE}")).expect("valid");
        for shown in [format!("{key:?}"), format!("{header:?}"), format!("{keys:?}")] {
            assert!(!shown.contains("opensesame") && !shown.contains(ALICE), "{shown}");
        }
        assert_eq!(Key::from(String::new()).header(), Ok(None));
        assert_eq!(Key::from("open\nsesame".to_owned()).header(), Err(Unsendable));
    }
}
