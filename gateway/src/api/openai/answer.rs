//! Answers and events of `/v1/images`.

use std::sync::Arc;

use axum::{
    Json,
    http::{HeaderMap, header},
    response::{IntoResponse as _, Response, sse},
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use futures::{StreamExt as _, future::try_join_all};
use jiff::Timestamp;
use serde::Serialize;
use utoipa::ToSchema;

use super::{body::Images, error};
use crate::{
    admission::Admission,
    api::{
        answer,
        generate::{Live, live, make},
    },
    error::Error,
    records::{
        picture::Made,
        progress::{Event, Preview},
    },
    state::AppState,
};

#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ImagesAnswer {
    /// Seconds since 1970.
    created: i64,
    data: Vec<ImageData>,
    output_format: &'static str,
    size: String,
    background: &'static str,
    quality: &'static str,
    usage: Usage,
}

#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ImageData {
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    b64_json: Option<String>,
    /// URL in this gateway's history.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    url: Option<String>,
    seed: u64,
}

/// Nothing is counted here; OpenAI's clients want it to be there.
#[derive(Debug, Default, Serialize, ToSchema)]
pub(crate) struct Usage {
    input_tokens: u32,
    output_tokens: u32,
    total_tokens: u32,
    input_tokens_details: UsageDetails,
}

#[derive(Debug, Default, Serialize, ToSchema)]
pub(crate) struct UsageDetails {
    image_tokens: u32,
    text_tokens: u32,
}

/// An event of a stream.
#[derive(Debug, Serialize)]
struct StreamEvent {
    #[serde(rename = "type")]
    kind: String,
    b64_json: String,
    created_at: i64,
    size: String,
    quality: &'static str,
    background: &'static str,
    output_format: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    partial_image_index: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    seed: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    usage: Option<Usage>,
}

/// Which previews become partial images: as many as were asked for, spread over the steps.
struct Partials {
    wanted: u32,
    sent: u32,
}

/// All pictures of a request. `kind` is what its events are called after.
pub(super) async fn answer(
    state: Arc<AppState>,
    mut images: Images,
    admission: Admission,
    headers: HeaderMap,
    kind: &'static str,
) -> Result<Response, Error> {
    images.request.deadline = state.patience.of(&headers)?;
    if images.stream {
        state.maker.check(&images.request).await?;
        return Ok(stream(state, images, admission, kind));
    }
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or("localhost");
    let scheme = state.guard.scheme();
    let first = images.request.body.seed.unwrap_or_else(llm_dit_params::random_seed);
    let requests = (0..images.n).map(|index| {
        let mut request = images.request.clone();
        request.body.seed = Some(first + u64::from(index));
        request
    });
    let requests: Vec<_> = requests.collect();
    // Each but the first takes a place of its own.
    let _admissions =
        (1..images.n).map(|_| state.admissions.admit()).collect::<Result<Vec<_>, _>>()?;
    let _admission = admission;
    let made = try_join_all(requests.iter().map(|request| make(&state, request, None))).await?;
    let data = made.iter().map(|made| {
        let id = made.about.history_id.filter(|_| images.as_url);
        ImageData {
            b64_json: id.is_none().then(|| STANDARD.encode(&made.file)),
            url: id.map(|id| format!("{scheme}://{host}/api/history/{id}/image")),
            seed: made.about.parameters.seed.unwrap_or_default(),
        }
    });
    Ok(Json(ImagesAnswer {
        created: Timestamp::now().as_second(),
        data: data.collect(),
        output_format: images.request.format.name(),
        size: made.first().map(size).unwrap_or_default(),
        background: "opaque",
        quality: "auto",
        usage: Usage::default(),
    })
    .into_response())
}

fn stream(
    state: Arc<AppState>,
    images: Images,
    admission: Admission,
    kind: &'static str,
) -> Response {
    let mut partials = Partials { wanted: images.partial_images, sent: 0 };
    let asked = (images.request.body.width, images.request.body.height);
    let events = live(state, images.request, admission).filter_map(move |live| {
        let event = match live {
            Live::Event(Event::Progress(_)) => None,
            Live::Event(Event::Preview(preview)) => partials.event(kind, asked, &preview),
            Live::End(result) => Some(match *result {
                Ok(made) => completed(kind, &made),
                Err(error) => answer::named("error", &error::event(error)),
            }),
        };
        std::future::ready(event)
    });
    answer::stream(events)
}

impl Partials {
    fn event(
        &mut self,
        kind: &str,
        asked: (Option<u32>, Option<u32>),
        preview: &Preview,
    ) -> Option<sse::Event> {
        // Of n images the k-th comes when k / (n + 1) of the steps are done.
        let due = (self.sent + 1) * preview.steps <= preview.step * (self.wanted + 1);
        if self.sent >= self.wanted || !due {
            return None;
        }
        let index = self.sent;
        self.sent += 1;
        let size = asked.0.zip(asked.1).map(|(w, h)| format!("{w}x{h}"));
        let name = format!("{kind}.partial_image");
        let event = StreamEvent {
            kind: name.clone(),
            b64_json: STANDARD.encode(&preview.file),
            created_at: Timestamp::now().as_second(),
            size: size.unwrap_or_else(|| "auto".to_owned()),
            quality: "auto",
            background: "opaque",
            output_format: preview.media_type.trim_start_matches("image/").to_owned(),
            partial_image_index: Some(index),
            seed: None,
            usage: None,
        };
        Some(answer::named(&name, &event))
    }
}

fn completed(kind: &str, made: &Made) -> sse::Event {
    let name = format!("{kind}.completed");
    let event = StreamEvent {
        kind: name.clone(),
        b64_json: STANDARD.encode(&made.file),
        created_at: Timestamp::now().as_second(),
        size: size(made),
        quality: "auto",
        background: "opaque",
        output_format: made.format.name().to_owned(),
        partial_image_index: None,
        seed: made.about.parameters.seed,
        usage: Some(Usage::default()),
    };
    answer::named(&name, &event)
}

fn size(made: &Made) -> String {
    let side = |side: Option<u32>| side.unwrap_or_default();
    format!("{}x{}", side(made.about.parameters.width), side(made.about.parameters.height))
}
