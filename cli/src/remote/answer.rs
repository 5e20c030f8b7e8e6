//! What a gateway answers: a picture, a stream of events that ends with one, or a problem.

use bytes::Bytes;
use reqwest::{Response, header::CONTENT_TYPE};
use serde::Deserialize;

use super::events;
use crate::generate::Report;

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
    /// The gateway said no: its status and its words.
    Problem(String),
    /// What came is not from a gateway of ours. Completes "the gateway ...".
    Strange(String),
}

/// The part of an RFC 9457 problem that is for people.
#[derive(Deserialize)]
pub(super) struct Problem {
    pub detail: String,
    pub status: Option<u16>,
}

impl Answer {
    /// Reads it to its end, reporting what it tells on the way.
    pub async fn read(answer: Response, report: Report<'_>) -> Result<Self, Unanswered> {
        let status = answer.status();
        if !status.is_success() {
            let body = answer.bytes().await?;
            let detail = serde_json::from_slice::<Problem>(&body).map(|p| p.detail);
            let detail =
                detail.unwrap_or_else(|_| "the response is not from an llm-dit gateway".into());
            return Err(Unanswered::Problem(format!("{status}: {detail}")));
        }
        let header = |name: &str| {
            answer.headers().get(name).and_then(|v| v.to_str().ok()).map(str::to_owned)
        };
        if header(CONTENT_TYPE.as_str()).is_some_and(|kind| kind.starts_with(events::EVENTS)) {
            return events::read(answer, report).await;
        }
        Ok(Self {
            seed: header("x-seed").unwrap_or_else(|| "unknown".to_owned()),
            truncated: header("x-truncated-tokens"),
            negative_truncated: header("x-truncated-negative-tokens"),
            png: answer.bytes().await?,
        })
    }
}

impl From<reqwest::Error> for Unanswered {
    fn from(error: reqwest::Error) -> Self {
        // "Connection refused" and its like; what is above it says only that something failed.
        let mut cause: &dyn std::error::Error = &error;
        while let Some(inner) = cause.source() {
            cause = inner;
        }
        Self::Lost(cause.to_string())
    }
}
