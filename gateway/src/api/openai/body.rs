//! The bodies of `/v1/images`: OpenAI's fields, and all of ours beside them.

use std::mem;

use llm_dit_fault::Fault;
use llm_dit_params::excerpt;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::{
    PartialSchema, ToSchema,
    openapi::{RefOr, Schema},
};

use crate::{
    api::body,
    error::{Error, bad},
    records::problem::Problem,
    records::request::{self, GenerateBody},
    state::AppState,
};

/// Most pictures in one request.
const MAX_N: u32 = 10;
const MAX_PARTIAL_IMAGES: u32 = 3;

/// OpenAI's own fields.
#[derive(Clone, Debug, Default, Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct OpenAiBody {
    /// One of `/v1/models`.
    pub model: Option<String>,
    /// Number of images, with the seeds `seed`, `seed + 1` and so on.
    #[schema(minimum = 1, maximum = 10)]
    pub n: Option<u32>,
    /// `WIDTHxHEIGHT` or `auto`.
    #[schema(example = "256x256")]
    pub size: Option<String>,
    /// `b64_json` or `url`.
    pub response_format: Option<String>,
    /// Stream events.
    pub stream: Option<bool>,
    /// Number of previews in the stream.
    #[schema(minimum = 0, maximum = 3)]
    pub partial_images: Option<u32>,
    /// Accepted but ignored, like the next three.
    pub user: Option<String>,
    pub quality: Option<String>,
    pub style: Option<String>,
    pub moderation: Option<String>,
    /// Must not be `transparent`.
    pub background: Option<String>,
    /// For edits; accepted but ignored.
    pub input_fidelity: Option<String>,
}

/// What the OpenAPI document says of the body: OpenAI's fields and ours in one object.
#[derive(Debug)]
pub(crate) struct ImagesBody;

impl PartialSchema for ImagesBody {
    fn schema() -> RefOr<Schema> {
        let mut all = GenerateBody::schema();
        if let RefOr::T(Schema::Object(all)) = &mut all {
            all.description = Some("OpenAI's fields, and those of /api/generate.".to_owned());
            if let RefOr::T(Schema::Object(theirs)) = OpenAiBody::schema() {
                all.properties.extend(theirs.properties);
            }
        }
        all
    }
}

impl ToSchema for ImagesBody {
    fn schemas(schemas: &mut Vec<(String, RefOr<Schema>)>) {
        GenerateBody::schemas(schemas);
    }
}

/// A checked body.
#[derive(Debug)]
pub(super) struct Images {
    pub request: request::Request,
    pub n: u32,
    pub stream: bool,
    pub partial_images: u32,
    pub as_url: bool,
}

impl OpenAiBody {
    /// The fields of OpenAI's API that the body may have.
    pub const FIELDS: [&str; 12] = [
        "model",
        "n",
        "size",
        "response_format",
        "stream",
        "partial_images",
        "user",
        "quality",
        "style",
        "moderation",
        "background",
        "input_fidelity",
    ];
}

/// Tells OpenAI's fields from ours. Either may be wrong, with the nearest name of both.
pub(super) fn split(mut all: Map<String, Value>) -> Result<(OpenAiBody, GenerateBody), Problem> {
    // Without a copy of the init image, which is most of a large body.
    let image = match all.get_mut("image") {
        Some(Value::String(text)) => Some(mem::take(text)),
        _ => None,
    };
    let is_theirs = |name: &str| OpenAiBody::FIELDS.contains(&name);
    let (theirs, ours): (Map<_, _>, Map<_, _>) =
        all.into_iter().partition(|(name, _)| is_theirs(name));
    let fields = [&OpenAiBody::FIELDS[..], GenerateBody::FIELDS].concat();
    let text = |map: Map<String, Value>| Value::Object(map).to_string();
    let theirs = body::parse(text(theirs).as_bytes(), &fields)?;
    let mut ours: GenerateBody = body::parse(text(ours).as_bytes(), &fields)?;
    if image.is_some() {
        ours.image = image;
    }
    Ok((theirs, ours))
}

impl Images {
    /// Checks OpenAI's fields and translates them to the gateway's.
    ///
    /// # Errors
    ///
    /// [`Error`] with status 400 if a value is out of range or contradicts another.
    pub async fn check(
        state: &AppState,
        theirs: OpenAiBody,
        mut ours: GenerateBody,
    ) -> Result<Self, Error> {
        let n = theirs.n.unwrap_or(1);
        if !(1..=MAX_N).contains(&n) {
            return Err(bad(format!("n {n} is out of range; use 1 to {MAX_N}")));
        }
        let stream = theirs.stream.unwrap_or(false);
        if stream && n > 1 {
            return Err(bad(format!("n {n} cannot be streamed; use 1, or leave out stream")));
        }
        let partial_images = theirs.partial_images.unwrap_or(0);
        if partial_images > MAX_PARTIAL_IMAGES {
            return Err(bad(format!(
                "partial_images {partial_images} is out of range; use 0 to {MAX_PARTIAL_IMAGES}"
            )));
        }
        let as_url = match theirs.response_format.as_deref() {
            None | Some("b64_json") => false,
            Some("url") if state.history.is_none() => {
                return Err(Fault::Unsupported(
                    "response_format url needs a history, which this gateway does not have; use b64_json".to_owned(),
                )
                .into());
            }
            Some("url") => true,
            Some(_) => return Err(bad("response_format must be b64_json or url".to_owned())),
        };
        if theirs.background.as_deref() == Some("transparent") {
            return Err(bad("transparent backgrounds are not supported".to_owned()));
        }
        if let Some((width, height)) = theirs.size.as_deref().map(size).transpose()?.flatten() {
            if ours.width.is_some() || ours.height.is_some() {
                return Err(bad("give size, or width and height, but not both".to_owned()));
            }
            (ours.width, ours.height) = (Some(width), Some(height));
        }
        if ours.seed.is_some_and(|seed| seed.checked_add(n.into()).is_none()) {
            return Err(bad(format!("seed is too large for {n} pictures")));
        }
        if let Some(wanted) = theirs.model {
            let model = state.backends.model().await?;
            model.named(Some(&wanted))?;
            ours.model = Some(wanted);
        }
        let mut request = ours.check(&state.templates)?;
        request.previews = stream && partial_images > 0;
        Ok(Self { request, n, stream, partial_images, as_url })
    }
}

fn size(text: &str) -> Result<Option<(u32, u32)>, Error> {
    if text == "auto" {
        return Ok(None);
    }
    let sides = text.split_once('x').and_then(|(w, h)| Some((w.parse().ok()?, h.parse().ok()?)));
    sides.map(Some).ok_or_else(|| {
        let shown = excerpt(text);
        bad(format!("size '{shown}' is invalid; write it as 1024x1024, or use auto"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_two_sides_or_auto() {
        assert_eq!(size("256x512").expect("a size"), Some((256, 512)));
        assert_eq!(size("auto").expect("a size"), None);
        for text in ["", "256", "256x", "x", "-1x5", "256x256x3", "256X256"] {
            assert!(size(text).is_err(), "{text}");
        }
    }

    #[test]
    fn fields_are_told_apart_and_misspelled_ones_named() {
        let split = |json: Value| {
            let Value::Object(map) = json else { panic!("an object") };
            super::split(map)
        };
        let (theirs, ours) =
            split(serde_json::json!({"prompt": "x", "n": 2, "steps": 3})).expect("valid");
        assert_eq!((theirs.n, ours.steps), (Some(2), Some(3)));
        let problem =
            split(serde_json::json!({"prompt": "x", "qualty": "hd"})).expect_err("unknown");
        assert!(problem.detail.contains("did you mean 'quality'?"), "{}", problem.detail);
        let problem = split(serde_json::json!({"prompt": "x", "n": "two"})).expect_err("no number");
        assert!(problem.detail.contains("n: invalid type"), "{}", problem.detail);
    }
}
