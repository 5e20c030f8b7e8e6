//! The result of a gateway's request: a picture, or the error.

use bytes::Bytes;
use llm_dit_serving::client;
use serde::Deserialize;

/// What came back.
pub(super) struct Answer {
    pub seed: String,
    /// Tokens that were cut, when some were.
    pub truncated: Option<String>,
    pub negative_truncated: Option<String>,
    pub png: Bytes,
}

/// Why nothing did.
pub(super) enum Unanswered {
    /// The connection failed, for this reason.
    Lost(String),
    /// The gateway said no: its status, if it is known, and its words with it.
    Problem(Option<u16>, String),
    /// What came is not from a gateway of ours. Completes "the gateway ...".
    Strange(String),
}

/// The part of an RFC 9457 problem that is for people.
#[derive(Deserialize)]
pub(super) struct Problem {
    pub detail: String,
    pub status: Option<u16>,
}

impl From<reqwest::Error> for Unanswered {
    fn from(error: reqwest::Error) -> Self {
        Self::Lost(client::root_cause(&error).to_string())
    }
}
