//! A picture as an answer: its file, JSON about it, or the events on the way to it.

use std::time::Duration;

use axum::{
    http::{HeaderMap, HeaderName, HeaderValue, header},
    response::{IntoResponse as _, Response, Sse, sse},
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use futures::Stream;
use serde::Serialize;
use utoipa::ToSchema;

use crate::records::{
    picture::{About, Made},
    problem::Problem,
    progress::{Event, Preview},
    request::GenerateBody,
};

/// Between two comments that keep a silent connection open.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// What a client takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Accepts {
    File,
    Json,
    Events,
}

/// A picture with its parameters.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ResultBody {
    /// The file in base64; absent if there is `image_url`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub image: Option<String>,
    /// URL of the file.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub image_url: Option<String>,
    pub media_type: String,
    /// Its id in the history, if there is one.
    #[schema(required = true)]
    pub history_id: Option<u64>,
    /// The request with the effective value of every field; as a new request, it generates the same
    /// image.
    pub parameters: GenerateBody,
    /// The formatted prompt.
    pub formatted_prompt: String,
    /// Seconds from request to image.
    pub generation_time: f64,
    pub truncated_tokens: u32,
    pub truncated_negative_tokens: u32,
    /// Why the file does not hold its parameters, if it does not.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub parameters_omitted: Option<String>,
    /// True if the embeddings came from the cache.
    pub embeddings_cached: bool,
}

/// A preview as an event.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct PreviewBody {
    pub step: u32,
    pub steps: u32,
    pub media_type: String,
    /// The file in base64.
    pub image: String,
}

/// A server-sent event, for the OpenAPI document. `data` is JSON: a `Progress`, a `PreviewBody`, a
/// `ResultBody` or a `Problem`, as `event` says.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct SentEvent {
    #[schema(required = false, nullable = false)]
    event: Option<String>,
    data: String,
    #[schema(required = false, nullable = false)]
    id: Option<String>,
}

impl Accepts {
    /// What the client prefers. A header that names none of ours asks for the file, as no header
    /// does.
    pub fn of(headers: &HeaderMap) -> Self {
        let mut best = (0.0, Self::File);
        for value in headers.get_all(header::ACCEPT).iter().filter_map(|v| v.to_str().ok()) {
            for range in value.split(',') {
                let mut parts = range.split(';').map(str::trim);
                let kind = match parts.next().unwrap_or_default().to_ascii_lowercase().as_str() {
                    "text/event-stream" => Self::Events,
                    "application/json" => Self::Json,
                    "*/*" => Self::File,
                    kind if kind.starts_with("image/") => Self::File,
                    _ => continue,
                };
                let quality = parts.find_map(|part| part.strip_prefix("q=")?.parse::<f32>().ok());
                let quality = quality.unwrap_or(1.0);
                if quality > best.0 {
                    best = (quality, kind);
                }
            }
        }
        best.1
    }
}

impl ResultBody {
    /// With the file in it.
    pub fn whole(made: &Made) -> Self {
        Self { image: Some(STANDARD.encode(&made.file)), ..Self::about(&made.about) }
    }

    /// The answer with the URL of the file instead of its bytes.
    pub fn at(about: &About, url: String) -> Self {
        Self { image_url: Some(url), ..Self::about(about) }
    }

    fn about(about: &About) -> Self {
        let [truncated_tokens, truncated_negative_tokens] = about.truncated;
        Self {
            image: None,
            image_url: None,
            media_type: about.media_type.clone(),
            history_id: about.history_id,
            parameters: about.parameters.clone(),
            formatted_prompt: about.formatted_prompt.clone(),
            generation_time: (about.seconds * 1e6).round() / 1e6,
            truncated_tokens,
            truncated_negative_tokens,
            parameters_omitted: about.parameters_omitted.clone(),
            embeddings_cached: about.cached,
        }
    }
}

impl From<&Preview> for PreviewBody {
    fn from(preview: &Preview) -> Self {
        Self {
            step: preview.step,
            steps: preview.steps,
            media_type: preview.media_type.clone(),
            image: STANDARD.encode(&preview.file),
        }
    }
}

/// The file, with what else is known in headers.
pub(crate) fn file(about: &About, file: Bytes) -> Response {
    let mut response = file.into_response();
    let headers = response.headers_mut();
    if let Ok(value) = HeaderValue::from_str(&about.media_type) {
        headers.insert(header::CONTENT_TYPE, value);
    }
    if let Some(seed) = about.parameters.seed {
        headers.insert("x-seed", seed.into());
    }
    if let Ok(value) = HeaderValue::from_str(&format!("{:.3}", about.seconds)) {
        headers.insert("x-generation-time", value);
    }
    if let Some(id) = about.history_id {
        headers.insert("x-history-id", id.into());
    }
    truncated(headers, about.truncated);
    omitted(headers, about.parameters_omitted.as_deref());
    response
}

/// How many tokens were cut from the prompt and the negative prompt, if any were.
pub(crate) fn truncated(headers: &mut HeaderMap, truncated: [u32; 2]) {
    let names = ["x-truncated-tokens", "x-truncated-negative-tokens"];
    for (name, tokens) in names.into_iter().zip(truncated) {
        if tokens > 0 {
            headers.insert(HeaderName::from_static(name), tokens.into());
        }
    }
}

/// Why a file does not hold its parameters, if it does not.
pub(crate) fn omitted(headers: &mut HeaderMap, why: Option<&str>) {
    if let Some(value) = why.and_then(|why| HeaderValue::from_str(why).ok()) {
        headers.insert("x-parameters-omitted", value);
    }
}

/// Progress and previews as server-sent events.
pub(crate) fn event(event: &Event) -> sse::Event {
    match event {
        Event::Progress(progress) => named("progress", progress),
        Event::Preview(preview) => named("preview", &PreviewBody::from(preview)),
    }
}

/// The last event.
pub(crate) fn last(result: Result<ResultBody, Problem>) -> sse::Event {
    match result {
        Ok(result) => named("result", &result),
        Err(problem) => named("error", &problem),
    }
}

pub(crate) fn named(name: &str, data: &impl Serialize) -> sse::Event {
    let event = sse::Event::default().event(name);
    event.json_data(data).unwrap_or_else(|error| {
        tracing::error!(%error, "failed to serialize an event");
        sse::Event::default().event(name).data("{}")
    })
}

/// A stream of events that proxies neither hold back nor cut off.
pub(crate) fn stream(events: impl Stream<Item = sse::Event> + Send + 'static) -> Response {
    use futures::StreamExt as _;
    let events = events.map(Ok::<_, std::convert::Infallible>);
    let alive = sse::KeepAlive::new().interval(KEEP_ALIVE);
    let mut response = Sse::new(events).keep_alive(alive).into_response();
    response.headers_mut().insert("x-accel-buffering", HeaderValue::from_static("no"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_preferred_answer_is_given() {
        let accepts = |value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::ACCEPT, value.parse().expect("a header"));
            Accepts::of(&headers)
        };
        assert_eq!(Accepts::of(&HeaderMap::new()), Accepts::File);
        for (value, expected) in [
            ("*/*", Accepts::File),
            ("image/png", Accepts::File),
            ("application/json", Accepts::Json),
            ("Application/JSON; charset=utf-8", Accepts::Json),
            ("text/event-stream", Accepts::Events),
            ("text/html, application/json;q=0.5, */*;q=0.8", Accepts::File),
            ("application/json, */*;q=0.5", Accepts::Json),
            ("text/html", Accepts::File),
            ("application/json;q=nonsense", Accepts::Json),
        ] {
            assert_eq!(accepts(value), expected, "{value}");
        }
    }
}
