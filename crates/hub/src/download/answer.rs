//! What an answer to a request for a file, or for the rest of one, holds.

use reqwest::{
    Response, StatusCode,
    header::{CONTENT_RANGE, ETAG, HeaderMap, HeaderValue},
};

/// What the body is.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Content {
    /// What was asked for: from the first byte that is missing.
    Rest,
    /// All of it, although less may have been asked for.
    Whole,
    /// Of no use, for this reason.
    Other(String),
}

/// Reads status, length and range of an answer to a request from byte `at` of `size`. `etag` is the
/// one that the same host sent before.
pub(super) fn content(
    response: &Response,
    at: u64,
    size: u64,
    etag: Option<&HeaderValue>,
) -> Content {
    let length = response.content_length();
    judge(response.status(), response.headers(), length, at, size, etag)
}

fn judge(
    status: StatusCode,
    headers: &HeaderMap,
    length: Option<u64>,
    at: u64,
    size: u64,
    etag: Option<&HeaderValue>,
) -> Content {
    let wrong_length = |expected: u64| {
        let length = length.filter(|&length| length != expected)?;
        Some(Content::Other(format!("the answer has {length} bytes instead of {expected}")))
    };
    match status {
        StatusCode::PARTIAL_CONTENT => {
            if etag.is_some_and(|etag| headers.get(ETAG).is_some_and(|now| now != etag)) {
                return Content::Other("the file changed while it was downloaded".to_owned());
            }
            let range = headers.get(CONTENT_RANGE).and_then(|value| value.to_str().ok());
            if range.and_then(parse_range) != Some((at, size - 1, size)) {
                let range: String = range.unwrap_or("none").chars().take(80).collect();
                let asked = format!("bytes {at}-{}/{size}", size - 1);
                return Content::Other(format!("the range is '{range}' instead of '{asked}'"));
            }
            wrong_length(size - at).unwrap_or(Content::Rest)
        }
        StatusCode::RANGE_NOT_SATISFIABLE => {
            Content::Other(format!("there is nothing from byte {at} on"))
        }
        StatusCode::OK => wrong_length(size).unwrap_or(Content::Whole),
        status => Content::Other(format!("the status is {status}")),
    }
}

/// `bytes FIRST-LAST/SIZE`.
fn parse_range(text: &str) -> Option<(u64, u64, u64)> {
    let (range, size) = text.strip_prefix("bytes ")?.split_once('/')?;
    let (first, last) = range.split_once('-')?;
    Some((first.parse().ok()?, last.parse().ok()?, size.parse().ok()?))
}

/// An ETag that `If-Range` may carry: of the same bytes, not of the same meaning.
pub(super) fn strong_etag(response: &Response) -> Option<HeaderValue> {
    let etag = response.headers().get(ETAG)?;
    etag.as_bytes().starts_with(b"\"").then(|| etag.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(status: u16, range: &str, length: u64, etags: [&str; 2]) -> Content {
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_RANGE, HeaderValue::from_str(range).expect("ASCII"));
        headers.insert(ETAG, HeaderValue::from_str(etags[1]).expect("ASCII"));
        let before = HeaderValue::from_str(etags[0]).expect("ASCII");
        let status = StatusCode::from_u16(status).expect("a status");
        judge(status, &headers, Some(length), 4, 10, Some(&before))
    }

    #[test]
    fn only_the_rest_that_was_asked_for_is_appended() {
        let same = ["\"a\"", "\"a\""];
        assert_eq!(judged(206, "bytes 4-9/10", 6, same), Content::Rest);
        assert_eq!(judged(200, "", 10, ["\"a\"", "\"b\""]), Content::Whole);
        for (status, range, length, etags) in [
            (206, "bytes 4-9/10", 6, ["\"a\"", "\"b\""]),
            (206, "bytes 3-9/10", 7, same),
            (206, "bytes 4-8/10", 5, same),
            (206, "bytes 4-9/11", 6, same),
            (206, "bytes 4-9/*", 6, same),
            (206, "", 6, same),
            (206, "bytes 4-9/10", 5, same),
            (200, "", 11, same),
            (416, "bytes */4", 0, same),
            (204, "", 0, same),
        ] {
            let found = judged(status, range, length, etags);
            assert!(matches!(found, Content::Other(_)), "{status} {range} {length}: {found:?}");
        }
    }
}
