//! Answers and events of `/v1/images`.

use std::sync::Arc;

use axum::{
    Json,
    extract::Request,
    response::{IntoResponse as _, Response, sse},
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use futures::{StreamExt as _, future::try_join_all};
use jiff::Timestamp;
use llm_dit_fault::Fault;
use llm_dit_serving::Deadline;
use serde::Serialize;
use utoipa::ToSchema;

use super::{body::Images, error, usage::Usage};
use crate::{
    admission::Admission,
    api::{
        answer,
        generate::{Live, live, make},
        history::image_path,
    },
    error::Error,
    forwarded::Place,
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
    /// Tokens that were cut from the prompt, if any were.
    #[serde(skip_serializing_if = "is_zero")]
    #[schema(required = false)]
    truncated_tokens: u32,
    #[serde(skip_serializing_if = "is_zero")]
    #[schema(required = false)]
    truncated_negative_tokens: u32,
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
    /// Why the file does not hold its parameters, if it does not.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    parameters_omitted: Option<String>,
}

/// Who asks, and for how long.
pub(super) struct Asked {
    deadline: Deadline,
    place: Place,
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
    #[serde(skip_serializing_if = "is_zero")]
    truncated_tokens: u32,
    #[serde(skip_serializing_if = "is_zero")]
    truncated_negative_tokens: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    parameters_omitted: Option<String>,
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
    asked: Asked,
    kind: &'static str,
) -> Result<Response, Error> {
    images.request.deadline = asked.deadline;
    if images.stream {
        state.maker.check(&images.request).await?;
        return Ok(stream(state, images, admission, kind));
    }
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
    let mut data = Vec::with_capacity(made.len());
    for made in &made {
        let id = if images.as_url { stored(&state, made).await? } else { None };
        data.push(ImageData {
            b64_json: id.is_none().then(|| STANDARD.encode(&made.file)),
            url: id.map(|id| asked.place.url(&image_path(id))),
            seed: made.about.parameters.seed.unwrap_or_default(),
            parameters_omitted: made.about.parameters_omitted.clone(),
        });
    }
    // All of them have one prompt.
    let [truncated_tokens, truncated_negative_tokens] =
        made.first().map(|made| made.about.truncated).unwrap_or_default();
    let mut response = Json(ImagesAnswer {
        created: Timestamp::now().as_second(),
        data,
        output_format: images.request.format.name(),
        size: made.first().map(size).unwrap_or_default(),
        background: "opaque",
        quality: "auto",
        usage: Usage::of(&made),
        truncated_tokens,
        truncated_negative_tokens,
    })
    .into_response();
    let omitted = made.iter().find_map(|made| made.about.parameters_omitted.as_deref());
    let headers = response.headers_mut();
    answer::truncated(headers, [truncated_tokens, truncated_negative_tokens]);
    answer::omitted(headers, omitted);
    Ok(response)
}

/// The id of an image that the history has. One that could not be stored, or was removed for newer
/// ones, is sent itself.
async fn stored(state: &AppState, made: &Made) -> Result<Option<u64>, Error> {
    let Some((history, id)) = state.history.as_ref().zip(made.about.history_id) else {
        return Ok(None);
    };
    Ok(history.entry(id).await?.map(|_| id))
}

impl Asked {
    /// Of the request's headers.
    ///
    /// # Errors
    ///
    /// [`Error`] if the time limit that they set is none.
    pub fn of(state: &AppState, request: &Request) -> Result<Self, Error> {
        let deadline = state.patience.of(request.headers())?;
        let place = request.extensions().get::<Place>().cloned();
        let place = place.ok_or_else(|| Fault::Internal("the guard is missing".to_owned()))?;
        Ok(Self { deadline, place })
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_zero(number: &u32) -> bool {
    *number == 0
}

fn stream(
    state: Arc<AppState>,
    images: Images,
    admission: Admission,
    kind: &'static str,
) -> Response {
    let mut partials = Partials { wanted: images.partial_images, sent: 0 };
    let events = live(state, images.request, admission).filter_map(move |live| {
        let event = match live {
            Live::Event(Event::Progress(_)) => None,
            Live::Event(Event::Preview(preview)) => partials.event(kind, &preview),
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
    fn event(&mut self, kind: &str, preview: &Preview) -> Option<sse::Event> {
        // Of n images the k-th comes when k / (n + 1) of the steps are done.
        let due = (self.sent + 1) * preview.steps <= preview.step * (self.wanted + 1);
        if self.sent >= self.wanted || !due {
            return None;
        }
        let index = self.sent;
        self.sent += 1;
        let size = llm_dit_pictures::size(&preview.file).map(|(w, h)| format!("{w}x{h}")).ok();
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
            truncated_tokens: 0,
            truncated_negative_tokens: 0,
            parameters_omitted: None,
        };
        Some(answer::named(&name, &event))
    }
}

fn completed(kind: &str, made: &Made) -> sse::Event {
    let name = format!("{kind}.completed");
    let [truncated_tokens, truncated_negative_tokens] = made.about.truncated;
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
        usage: Some(Usage::of(std::slice::from_ref(made))),
        truncated_tokens,
        truncated_negative_tokens,
        parameters_omitted: made.about.parameters_omitted.clone(),
    };
    answer::named(&name, &event)
}

fn size(made: &Made) -> String {
    // Of the file: a part that was redrawn is not what its parameters say.
    let (width, height) = llm_dit_pictures::size(&made.file).unwrap_or_default();
    format!("{width}x{height}")
}
