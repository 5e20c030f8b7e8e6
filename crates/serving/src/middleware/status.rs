//! The last look at a gRPC status before it is sent.

use axum::http::HeaderMap;
use llm_dit_fault::{MAX_TEXT_BYTES, bounded};
use tonic::Status;

/// Cuts the text of a status that is too long. Ours are not; libraries repeat texts of clients.
pub(super) fn bound(headers: &mut HeaderMap) {
    let long = headers.get(Status::GRPC_MESSAGE).is_some_and(|text| text.len() > MAX_TEXT_BYTES);
    if long && let Some(status) = Status::from_header_map(headers) {
        let short = Status::new(status.code(), bounded(status.message().to_owned()));
        // What a status holds is always a valid header.
        let _ = short.add_header(headers);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_texts_are_cut_and_others_stay() {
        for (text, cut) in [("short", false), (&*"symbol é ".repeat(10_000), true)] {
            let mut headers = HeaderMap::new();
            Status::not_found(text).add_header(&mut headers).expect("valid");
            bound(&mut headers);
            let status = Status::from_header_map(&headers).expect("a status");
            assert_eq!(status.code(), tonic::Code::NotFound);
            assert_eq!(status.message() != text, cut);
            assert!(headers["grpc-message"].len() <= MAX_TEXT_BYTES);
        }
        let mut none = HeaderMap::new();
        bound(&mut none);
        assert!(none.is_empty());
    }
}
