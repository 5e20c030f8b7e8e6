//! One id for everything that belongs to a request, in the logs of every service that handles it
//! and in the client's answer.

use axum::http::{HeaderMap, HeaderName, HeaderValue};
use uuid::Uuid;

/// The header, and the key of gRPC metadata.
pub const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// A client's own id may be this long.
const MAX_BYTES: usize = 128;

tokio::task_local! {
    static CURRENT: RequestId;
}

/// An id that is printable and short, even if a client chose it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestId(HeaderValue);

impl RequestId {
    /// What the client calls its request, if that can stand in a log; else a new one.
    pub fn of(headers: &HeaderMap) -> Self {
        match headers.get(&REQUEST_ID) {
            Some(id) if is_harmless(id.as_bytes()) => Self(id.clone()),
            _ => Self::new(),
        }
    }

    /// A new random id.
    pub fn new() -> Self {
        Uuid::new_v4().into()
    }

    /// That of the request which this task works for.
    pub fn current() -> Option<Self> {
        CURRENT.try_with(Clone::clone).ok()
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        self.0.to_str().unwrap_or_default()
    }

    /// The id as a header's value.
    pub fn header(&self) -> HeaderValue {
        self.0.clone()
    }

    /// Runs work on another thread under an id that was captured before.
    pub fn during<T>(id: Option<Self>, work: impl FnOnce() -> T) -> T {
        match id {
            Some(id) => CURRENT.sync_scope(id, work),
            None => work(),
        }
    }

    /// Does this work under this id.
    pub fn scope<F: Future>(self, work: F) -> impl Future<Output = F::Output> {
        CURRENT.scope(self, work)
    }
}

impl From<Uuid> for RequestId {
    fn from(id: Uuid) -> Self {
        let id = HeaderValue::from_str(&id.to_string());
        Self(id.unwrap_or(HeaderValue::from_static("unknown")))
    }
}

impl Default for RequestId {
    fn default() -> Self {
        Self::new()
    }
}

/// For work that goes to a task of its own: keeps the id that is in force here.
pub fn keep<F: Future>(work: F) -> impl Future<Output = F::Output> {
    RequestId::current().unwrap_or_default().scope(work)
}

/// Refuses spaces, quotes and control characters, so that a client cannot write lines into a log.
fn is_harmless(id: &[u8]) -> bool {
    let harmless = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_.:=+/".contains(byte);
    (1..=MAX_BYTES).contains(&id.len()) && id.iter().all(harmless)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(id: &str) -> RequestId {
        let mut headers = HeaderMap::new();
        headers.insert(REQUEST_ID, id.parse().expect("a header"));
        RequestId::of(&headers)
    }

    #[test]
    fn a_clients_id_is_taken_if_it_is_harmless() {
        for id in ["a", "Root=1-67891233-abcdef012345678912345678", &"x".repeat(128)] {
            assert_eq!(of(id).as_str(), id);
        }
        for id in ["", "a b", "a\"b", "ä", "\u{1b}[31m", "a,b", &"x".repeat(129)] {
            let Ok(_) = id.parse::<HeaderValue>() else { continue };
            assert_eq!(of(id).as_str().len(), 36, "{id:?} is replaced by a UUID");
        }
        assert_ne!(RequestId::of(&HeaderMap::new()), RequestId::of(&HeaderMap::new()));
    }

    #[tokio::test]
    async fn it_goes_along_to_other_tasks() {
        assert_eq!(RequestId::current(), None);
        let id = of("mine");
        let seen = id.clone().scope(async {
            tokio::spawn(keep(async { RequestId::current() })).await.expect("no panic")
        });
        assert_eq!(seen.await, Some(id));
    }
}
