//! Reading a JSON body: bounded, and every refusal a [`Problem`].

use std::time::Duration;

use axum::{
    body::{Body, BodyDataStream, HttpBody as _},
    extract::Request,
    http::{HeaderMap, header},
};
use bytes::{Bytes, BytesMut};
use futures::StreamExt as _;
use llm_dit_fault::Fault;
use llm_dit_memory::{MemoryBudget, Reservation};
use llm_dit_params::{excerpt, nearest, same_parameter};
use serde::de::DeserializeOwned;
use tokio::time;

use crate::{admission::Admissions, records::problem::Problem, state::AppState};

/// Room for every text at its limit, JSON escapes included.
pub(crate) const MAX_BODY_BYTES: usize = 1024 * 1024;
/// With room for a picture in base64.
pub(crate) const MAX_PICTURE_BODY_BYTES: usize = 24 * 1024 * 1024;

/// What is read and thrown away of a refused body, and for how long. A client that is still writing
/// when we close the connection would see a broken pipe in place of our answer.
const MAX_DRAINED_BYTES: usize = MAX_PICTURE_BODY_BYTES + 16 * 1024 * 1024;
const DRAIN_TIME: Duration = Duration::from_secs(2);

/// Copies of a JSON body in memory: its bytes, and the values that are read from them.
const COPIES: u64 = 2;

/// More than any request has; a value takes many times the memory of its text.
const MAX_VALUES: usize = 10_000;

/// The request's JSON as a `T`, whose fields are named `fields`.
pub(crate) async fn json<T: DeserializeOwned>(
    memory: &MemoryBudget,
    request: Request,
    fields: &[&str],
) -> Result<T, Problem> {
    let (bytes, _memory) = read_json(memory, request, None).await?;
    parse(&bytes, fields)
}

/// Likewise, of a body that may hold a picture, with the memory that it takes.
pub(crate) async fn json_with_picture<T: DeserializeOwned>(
    state: &AppState,
    request: Request,
    fields: &[&str],
) -> Result<(T, Reservation), Problem> {
    let (bytes, memory) = read_json(&state.memory, request, Some(&state.admissions)).await?;
    Ok((parse(&bytes, fields)?, memory))
}

/// The bytes of a body that says that it is JSON. With a place it may be as large as a picture.
async fn read_json(
    memory: &MemoryBudget,
    request: Request,
    large: Option<&Admissions>,
) -> Result<(Bytes, Reservation), Problem> {
    if !is_json(request.headers()) {
        return Err(Problem::unsupported_media_type(
            "send JSON with the header Content-Type: application/json",
        ));
    }
    let waits = request.headers().contains_key(header::EXPECT);
    read(request.into_body(), waits, memory.nothing("the body"), large).await
}

/// JSON as a `T`, whose fields are named `fields`.
pub(crate) fn parse<T: DeserializeOwned>(bytes: &[u8], fields: &[&str]) -> Result<T, Problem> {
    // serde would fill a struct's fields from an array in order.
    if bytes.trim_ascii_start().first() == Some(&b'[') {
        return Err(Fault::BadRequest("the body is an array; send a JSON object".into()).into());
    }
    check_breadth(bytes)?;
    let mut reader = serde_json::Deserializer::from_slice(bytes);
    let parsed = serde_path_to_error::deserialize(&mut reader)
        .map_err(|error| explain(&error, fields))
        .and_then(|value| reader.end().map(|()| value).map_err(|error| error.to_string()));
    parsed
        .map_err(|why| Fault::BadRequest(format!("the body is not a valid request: {why}")).into())
}

/// Refuses JSON of so many values that they would take far more memory than their text.
///
/// # Errors
///
/// [`Fault::BadRequest`] if it has more than [`MAX_VALUES`].
pub(crate) fn check_breadth(json: &[u8]) -> Result<(), Fault> {
    let (mut values, mut in_string, mut escaped) = (0, false, false);
    for byte in json {
        match (in_string, byte) {
            (true, _) if escaped => escaped = false,
            (true, b'\\') => escaped = true,
            (_, b'"') => in_string = !in_string,
            (false, b',' | b'[' | b'{') => values += 1,
            _ => {}
        }
    }
    if values > MAX_VALUES {
        return Err(Fault::BadRequest(format!(
            "the body has more than {MAX_VALUES} JSON values; send fewer"
        )));
    }
    Ok(())
}

/// `client_waits`: it sends nothing before we ask for it, so there is nothing to drain.
async fn read(
    body: Body,
    client_waits: bool,
    memory: Reservation,
    large: Option<&Admissions>,
) -> Result<(Bytes, Reservation), Problem> {
    let announced = body.size_hint().lower();
    let mut chunks = body.into_data_stream();
    let result = take(&mut chunks, announced, memory, large).await;
    if result.is_err() && !client_waits && announced <= MAX_DRAINED_BYTES as u64 {
        drain(&mut chunks).await;
    }
    result
}

/// Reserves memory before it is used.
async fn take(
    chunks: &mut BodyDataStream,
    announced: u64,
    mut memory: Reservation,
    large: Option<&Admissions>,
) -> Result<(Bytes, Reservation), Problem> {
    let max = if large.is_some() { MAX_PICTURE_BODY_BYTES } else { MAX_BODY_BYTES };
    let too_large = || {
        let limit = max / 1024;
        Problem::from(Fault::TooLarge(format!("the body is over the limit of {limit} KiB")))
    };
    if announced > max as u64 {
        return Err(too_large());
    }
    memory.resize(announced * COPIES)?;
    let mut bytes = BytesMut::new();
    // Held for as long as a large body is read; what comes of it is bounded by other means.
    let mut upload = None;
    while let Some(chunk) = chunks.next().await {
        let chunk = chunk
            .map_err(|error| Fault::BadRequest(format!("the body could not be read: {error}")))?;
        let read = bytes.len() + chunk.len();
        if read > max {
            return Err(too_large());
        }
        if read > MAX_BODY_BYTES
            && upload.is_none()
            && let Some(admissions) = large
        {
            upload = Some(admissions.admit_upload()?);
        }
        let needed = read as u64 * COPIES;
        if needed > memory.bytes() {
            memory.resize(needed)?;
        }
        bytes.extend_from_slice(&chunk);
    }
    Ok((bytes.freeze(), memory))
}

async fn drain(chunks: &mut BodyDataStream) {
    let rest = async {
        let mut read = 0;
        while let Some(Ok(chunk)) = chunks.next().await {
            read += chunk.len();
            if read > MAX_DRAINED_BYTES {
                break;
            }
        }
    };
    // A client that takes longer may miss the answer.
    let _ = time::timeout(DRAIN_TIME, rest).await;
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
    if let Some(twice) = same_parameter(&inner) {
        return twice;
    }
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
