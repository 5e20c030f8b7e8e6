//! Browsers' sessions: what is in a cookie, and which were ended.
//!
//! A cookie names a session and when it began, sealed with the key of its owner and a random number of
//! this gateway. So only ended sessions have to be remembered, and only until they would be over.

use std::{collections::BTreeMap, sync::Arc};

use data_encoding::HEXLOWER;
use jiff::Timestamp;
use llm_dit_serving::security::{Keys, keys::Denied};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use uuid::Uuid;

/// Seconds that a session lasts.
const LIFETIME: i64 = 30 * 24 * 3600;
/// Sessions that may have been ended early; beyond them all are.
const MAX_ENDED: usize = 4096;
/// Id, beginning and seal.
const COOKIE_BYTES: usize = 16 + 8 + 32;

/// The sessions of a gateway. Clones share them.
#[derive(Clone, Debug)]
pub(crate) struct Sessions(Arc<Mutex<Ledger>>);

/// What has to be stored.
#[derive(Debug, Serialize, Deserialize)]
struct Ledger {
    /// Part of every seal: with another one, no session is valid.
    salt: Uuid,
    /// When ended sessions began, in seconds since 1970, by id.
    ended: BTreeMap<Uuid, i64>,
}

struct Session {
    id: Uuid,
    began: i64,
}

impl Default for Sessions {
    /// Without any; those of other gateways are not valid.
    fn default() -> Self {
        Self(Arc::new(Mutex::new(Ledger { salt: Uuid::new_v4(), ended: BTreeMap::new() })))
    }
}

impl Sessions {
    /// The value of a cookie for the owner of a key.
    pub fn begin(&self, key: &str) -> String {
        let session = Session { id: Uuid::new_v4(), began: Timestamp::now().as_second() };
        let seal = Keys::seal(key, &session.sealed(self.0.lock().salt));
        let mut bytes = session.id.as_bytes().to_vec();
        bytes.extend(session.began.to_be_bytes());
        bytes.extend(seal);
        HEXLOWER.encode(&bytes)
    }

    /// The name of the key that a cookie stands for.
    ///
    /// # Errors
    ///
    /// `Denied::Wrong` if the cookie belongs to no key, or its session is over.
    pub fn check(&self, keys: &Keys, cookie: &str) -> Result<Arc<str>, Denied> {
        let (session, seal) = parse(cookie).ok_or(Denied::Wrong)?;
        let ledger = self.0.lock();
        let name = keys.check_seal(&session.sealed(ledger.salt), &seal)?;
        let is_over = session.is_over() || ledger.ended.contains_key(&session.id);
        if is_over { Err(Denied::Wrong) } else { Ok(name) }
    }

    /// Ends the session of a cookie. Returns what is to be stored, if it had not been over.
    pub fn end(&self, keys: &Keys, cookie: &str) -> Option<Vec<u8>> {
        self.check(keys, cookie).ok()?;
        let (session, _) = parse(cookie)?;
        {
            let mut ledger = self.0.lock();
            ledger.ended.insert(session.id, session.began);
            ledger.ended.retain(|id, began| !Session { id: *id, began: *began }.is_over());
            if ledger.ended.len() > MAX_ENDED {
                *ledger = Ledger { salt: Uuid::new_v4(), ended: BTreeMap::new() };
            }
        }
        Some(self.to_json())
    }

    /// What is to be stored.
    pub fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec(&*self.0.lock()).unwrap_or_default()
    }

    /// Goes on with what an earlier gateway stored. False if that cannot be read: no session of
    /// before is valid then.
    pub fn restore(&self, json: &[u8]) -> bool {
        let Ok(stored) = serde_json::from_slice(json) else { return false };
        *self.0.lock() = stored;
        true
    }
}

impl Session {
    fn sealed(&self, salt: Uuid) -> [u8; 32] {
        let parts = Sha256::new().chain_update(salt).chain_update(self.id);
        parts.chain_update(self.began.to_be_bytes()).finalize().into()
    }

    fn is_over(&self) -> bool {
        Timestamp::now().as_second().saturating_sub(self.began) > LIFETIME
    }
}

fn parse(cookie: &str) -> Option<(Session, [u8; 32])> {
    let bytes = HEXLOWER.decode(cookie.as_bytes()).ok()?;
    if bytes.len() != COOKIE_BYTES {
        return None;
    }
    let (id, rest) = bytes.split_first_chunk::<16>()?;
    let (began, seal) = rest.split_first_chunk::<8>()?;
    let session = Session { id: Uuid::from_bytes(*id), began: i64::from_be_bytes(*began) };
    Some((session, seal.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use llm_dit_serving::security::Key;

    use super::*;

    const KEY: &str = "alice-0123456789abcdef";

    fn keys(key: &str) -> Keys {
        Keys::only("alice", &Key::from(key.to_owned()))
    }

    #[test]
    fn a_session_ends_alone_and_for_good() {
        let (sessions, keys) = (Sessions::default(), keys(KEY));
        let (first, second) = (sessions.begin(KEY), sessions.begin(KEY));
        assert_eq!(sessions.check(&keys, &first).as_deref(), Ok("alice"));
        let stored = sessions.end(&keys, &first).expect("was valid");
        assert_eq!(sessions.check(&keys, &first), Err(Denied::Wrong));
        assert!(sessions.end(&keys, &first).is_none(), "once");
        assert_eq!(sessions.check(&keys, &second).as_deref(), Ok("alice"));
        let restarted = Sessions::default();
        assert_eq!(restarted.check(&keys, &second), Err(Denied::Wrong), "of another gateway");
        assert!(restarted.restore(&stored));
        assert_eq!(restarted.check(&keys, &first), Err(Denied::Wrong));
        assert_eq!(restarted.check(&keys, &second).as_deref(), Ok("alice"));
        assert!(!restarted.restore(b"{"));
    }

    #[test]
    fn what_is_no_session_of_a_key_is_refused() {
        let (sessions, keys) = (Sessions::default(), keys(KEY));
        let cookie = sessions.begin(KEY);
        let other = sessions.begin("bob-0123456789abcdef");
        let older = {
            let mut bytes = HEXLOWER.decode(cookie.as_bytes()).expect("hex");
            bytes[20] ^= 1;
            HEXLOWER.encode(&bytes)
        };
        for wrong in [&*other, &older, &cookie[2..], KEY, "", "\u{e9}"] {
            assert_eq!(sessions.check(&keys, wrong), Err(Denied::Wrong), "{wrong}");
        }
        let over =
            Session { id: Uuid::new_v4(), began: Timestamp::now().as_second() - LIFETIME - 9 };
        assert!(over.is_over());
    }

    #[test]
    fn what_is_remembered_of_ended_sessions_is_bounded() {
        let (sessions, keys) = (Sessions::default(), keys(KEY));
        let stays = sessions.begin(KEY);
        for _ in 0..=MAX_ENDED {
            let cookie = sessions.begin(KEY);
            sessions.end(&keys, &cookie).expect("was valid");
        }
        assert!(sessions.to_json().len() < 100);
        assert_eq!(sessions.check(&keys, &stays), Err(Denied::Wrong), "all of them end");
    }
}
