//! `Idempotency-Key`s of requests that are being accepted.

use std::collections::HashSet;

use parking_lot::Mutex;
use tokio::sync::Notify;

/// Requests with one key take turns: the second finds the job of the first, whatever there is room
/// for.
#[derive(Debug, Default)]
pub(super) struct KeyTurns {
    taken: Mutex<HashSet<String>>,
    freed: Notify,
}

/// The turn of one request.
#[derive(Debug)]
pub(crate) struct KeyTurn<'a> {
    turns: &'a KeyTurns,
    key: String,
}

impl KeyTurns {
    /// Waits until no other request with this key is being accepted.
    pub async fn take(&self, key: &str) -> KeyTurn<'_> {
        loop {
            let freed = self.freed.notified();
            tokio::pin!(freed);
            // Before looking, so that no release is missed.
            freed.as_mut().enable();
            if self.taken.lock().insert(key.to_owned()) {
                return KeyTurn { turns: self, key: key.to_owned() };
            }
            freed.await;
        }
    }
}

impl Drop for KeyTurn<'_> {
    fn drop(&mut self) {
        self.turns.taken.lock().remove(&self.key);
        self.turns.freed.notify_waiters();
    }
}
