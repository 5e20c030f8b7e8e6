//! What errors of the server mean.

use std::error::Error;

use async_nats::jetstream::{self, ErrorCode};
use llm_dit_fault::Fault;

/// The server refuses at once what has no room.
const FULL: [ErrorCode; 5] = [
    ErrorCode::STREAM_STORE_FAILED,
    ErrorCode::INSUFFICIENT_RESOURCES,
    ErrorCode::STORAGE_RESOURCES_EXCEEDED,
    ErrorCode::STREAM_MAX_STREAM_BYTES_EXCEEDED,
    ErrorCode::ACCOUNT_RESOURCES_EXCEEDED,
];

/// Whether a limit of the server was reached.
pub(super) fn is_full(error: &(dyn Error + 'static)) -> bool {
    let mut next = Some(error);
    while let Some(error) = next {
        let code = error.downcast_ref::<jetstream::Error>().map(jetstream::Error::error_code);
        if code.is_some_and(|code| FULL.contains(&code)) {
            return true;
        }
        next = error.source();
    }
    false
}

/// `doing` failed. Nothing is known of a change that timed out.
pub(super) fn failed(doing: &str, error: &(dyn Error + 'static)) -> Fault {
    let mut cause = error.to_string();
    let mut next = error.source();
    while let Some(error) = next {
        cause = format!("{cause}: {error}");
        next = error.source();
    }
    let what = if is_full(error) { "is full" } else { "failed" };
    Fault::Unavailable(format!("the shared queue {what} ({doing}): {cause}"))
}
