//! Reading a JSON body: bounded, and every refusal a [`Problem`].

use axum::{
    body::{Body, HttpBody as _},
    extract::Request,
    http::{HeaderMap, header},
};
use bytes::{Bytes, BytesMut};
use futures::StreamExt as _;
use llm_dit_fault::Fault;
use llm_dit_params::{excerpt, nearest};
use serde::de::DeserializeOwned;

use crate::{admission::Admissions, records::problem::Problem};

/// Room for every text at its limit, JSON escapes included.
pub(crate) const MAX_BODY_BYTES: usize = 1024 * 1024;
/// With room for a picture in base64.
pub(crate) const MAX_PICTURE_BODY_BYTES: usize = 24 * 1024 * 1024;

/// What is read and thrown away beyond that of a body that is too large. A client that is still writing when
/// we close the connection would see a broken pipe in place of our answer.
const MAX_DRAINED_BYTES: usize = 16 * 1024 * 1024;

/// The request's JSON as a `T`, whose fields are named `fields`.
pub(crate) async fn json<T: DeserializeOwned>(
    request: Request,
    fields: &[&str],
) -> Result<T, Problem> {
    parse(&read_json(request, None).await?, fields)
}

/// Likewise, of a body that may hold a picture.
pub(crate) async fn json_with_picture<T: DeserializeOwned>(
    admissions: &Admissions,
    request: Request,
    fields: &[&str],
) -> Result<T, Problem> {
    parse(&read_json(request, Some(admissions)).await?, fields)
}

/// The bytes of a body that says that it is JSON. With a place it may be as large as a picture.
pub(crate) async fn read_json(
    request: Request,
    large: Option<&Admissions>,
) -> Result<Bytes, Problem> {
    if !is_json(request.headers()) {
        return Err(Problem::unsupported_media_type(
            "send JSON with the header Content-Type: application/json",
        ));
    }
    let waits = request.headers().contains_key(header::EXPECT);
    read(request.into_body(), waits, large).await
}

/// JSON as a `T`, whose fields are named `fields`.
pub(crate) fn parse<T: DeserializeOwned>(bytes: &[u8], fields: &[&str]) -> Result<T, Problem> {
    // serde would fill a struct's fields from an array in order.
    if bytes.trim_ascii_start().first() == Some(&b'[') {
        return Err(Fault::BadRequest("the body is an array; send a JSON object".into()).into());
    }
    let mut reader = serde_json::Deserializer::from_slice(bytes);
    let parsed = serde_path_to_error::deserialize(&mut reader)
        .map_err(|error| explain(&error, fields))
        .and_then(|value| reader.end().map(|()| value).map_err(|error| error.to_string()));
    parsed
        .map_err(|why| Fault::BadRequest(format!("the body is not a valid request: {why}")).into())
}

/// `client_waits`: it sends nothing before we ask for it, so there is nothing to drain.
async fn read(
    body: Body,
    client_waits: bool,
    large: Option<&Admissions>,
) -> Result<Bytes, Problem> {
    let max = if large.is_some() { MAX_PICTURE_BODY_BYTES } else { MAX_BODY_BYTES };
    let drained = max + MAX_DRAINED_BYTES;
    let too_large = || {
        let limit = max / 1024;
        Problem::from(Fault::TooLarge(format!("the body is over the limit of {limit} KiB")))
    };
    let announced = body.size_hint().lower();
    if announced > drained as u64 || announced > max as u64 && client_waits {
        return Err(too_large());
    }
    let mut bytes = BytesMut::new();
    let mut read = 0;
    // Held for as long as a large body is read; what comes of it is bounded by other means.
    let mut upload = None;
    let mut chunks = body.into_data_stream();
    while let Some(chunk) = chunks.next().await {
        let chunk = chunk
            .map_err(|error| Fault::BadRequest(format!("the body could not be read: {error}")))?;
        read += chunk.len();
        if read > MAX_BODY_BYTES
            && upload.is_none()
            && let Some(admissions) = large
        {
            upload = Some(admissions.admit_upload()?);
        }
        if read <= max {
            bytes.extend_from_slice(&chunk);
        } else if read > drained {
            break;
        }
    }
    if read > max { Err(too_large()) } else { Ok(bytes.freeze()) }
}

fn is_json(headers: &HeaderMap) -> bool {
    let Some(Ok(value)) = headers.get(header::CONTENT_TYPE).map(|value| value.to_str()) else {
        return false;
    };
    let essence = value.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    essence == "application/json"
        || essence.starts_with("application/") && essence.ends_with("+json")
}

/// A message without the middle of what it repeats, if that is long.
fn brief(message: &str) -> String {
    const HEAD: usize = 400;
    const TAIL: usize = 200;
    let chars = message.chars().count();
    if chars <= HEAD + TAIL {
        return message.to_owned();
    }
    let mut chars_left = message.chars();
    let head: String = chars_left.by_ref().take(HEAD).collect();
    let tail: String = chars_left.skip(chars - HEAD - TAIL).collect();
    format!("{head}\u{2026}{tail}")
}

/// Names the field, and for an unknown one the nearest that exists.
fn explain(error: &serde_path_to_error::Error<serde_json::Error>, fields: &[&str]) -> String {
    // Both repeat what the client wrote.
    let (path, inner) = (excerpt(&error.path().to_string()), brief(&error.inner().to_string()));
    if !inner.starts_with("unknown field") {
        return if path == "." { inner } else { format!("{path}: {inner}") };
    }
    if path.contains(['.', '[']) && path != "." {
        // A field of something inside, whose own fields the message lists.
        return format!("{path}: {inner}");
    }
    let unknown = &excerpt(inner.split('`').nth(1).unwrap_or(&path));
    match nearest(unknown, fields.iter().copied()) {
        Some(field) => format!("unknown field '{unknown}'; did you mean '{field}'?"),
        None => format!("unknown field '{unknown}'; known are {}", fields.join(", ")),
    }
}
