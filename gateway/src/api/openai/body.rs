//! The bodies of `/v1/images`: OpenAI's fields, and all of ours beside them.

use llm_dit_fault::Fault;
use llm_dit_params::{
    Bound,
    bounds::{PARTIAL_IMAGES, PICTURES},
    excerpt,
};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::{
    PartialSchema, ToSchema,
    openapi::{RefOr, Schema},
};

use super::models;
use crate::{
    api::body,
    error::{Error, bad},
    records::problem::Problem,
    records::request::{self, GenerateBody, SourceImage},
    state::AppState,
};

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

fn is_theirs(name: &str) -> bool {
    OpenAiBody::FIELDS.contains(&name)
}

/// What a body may hold, with `more`.
fn fields(more: &[&'static str]) -> Vec<&'static str> {
    [&OpenAiBody::FIELDS[..], GenerateBody::FIELDS, more].concat()
}

/// Tells OpenAI's fields from ours in a JSON body. Either may be wrong, with the nearest name of both.
/// `more` are names of fields that are neither's.
pub(super) fn read(
    bytes: &[u8],
    more: &[&'static str],
) -> Result<(OpenAiBody, GenerateBody), Problem> {
    let fields = fields(more);
    let is_ours = |name: &str| !is_theirs(name) && !more.contains(&name);
    let ours = body::parse_members(bytes, &fields, is_ours)?;
    Ok((body::parse_members(bytes, &fields, is_theirs)?, ours))
}

/// Likewise, of the fields of a form.
pub(super) fn split(all: Map<String, Value>) -> Result<(OpenAiBody, GenerateBody), Problem> {
    let (theirs, ours): (Map<_, _>, Map<_, _>) =
        all.into_iter().partition(|(name, _)| is_theirs(name));
    let fields = fields(&["image"]);
    Ok((body::from_members(theirs, &fields)?, body::from_members(ours, &fields)?))
}

impl Images {
    /// Checks OpenAI's fields and translates them to the gateway's. `image`: one to draw from that is
    /// not in `ours`.
    ///
    /// # Errors
    ///
    /// [`Error`] with status 400 if a value is out of range or contradicts another.
    pub async fn check(
        state: &AppState,
        theirs: OpenAiBody,
        mut ours: GenerateBody,
        image: Option<SourceImage>,
    ) -> Result<Self, Error> {
        let n = within(PICTURES, theirs.n.unwrap_or(1))?;
        let stream = theirs.stream.unwrap_or(false);
        if stream && n > 1 {
            return Err(bad(format!("n {n} cannot be streamed; use 1, or leave out stream")));
        }
        let partial_images = within(PARTIAL_IMAGES, theirs.partial_images.unwrap_or(0))?;
        let as_url = match theirs.response_format.as_deref() {
            None | Some("b64_json") => false,
            Some("url") => {
                check_urls(state, n, stream)?;
                true
            }
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
        if ours.seed.is_some_and(|seed| seed.checked_add(u64::from(n) - 1).is_none()) {
            return Err(bad(format!(
                "seed is too large for {n} images, whose seeds follow each other; use at most {}",
                u64::MAX - (u64::from(n) - 1)
            )));
        }
        if let Some(wanted) = theirs.model {
            let model = state.backends.model().await?;
            ours.model = Some(models::resolve(&state.aliases, &model, &wanted)?);
        }
        let mut request = match image {
            Some(image) => ours.check_with(&state.templates, Some(image))?,
            None => ours.check(&state.templates)?,
        };
        request.previews = stream && partial_images > 0;
        Ok(Self { request, n, stream, partial_images, as_url })
    }
}

fn within(bound: Bound, value: u32) -> Result<u32, Error> {
    if bound.allows(value.into()) {
        return Ok(value);
    }
    Err(bad(bound.out_of_range(value)))
}

/// Whether the addresses of so many images would all lead to one.
fn check_urls(state: &AppState, n: u32, stream: bool) -> Result<(), Error> {
    if stream {
        return Err(bad("response_format url cannot be streamed; use b64_json".to_owned()));
    }
    let Some(history) = &state.history else {
        return Err(Fault::Unsupported(
            "response_format url needs a history, which this gateway does not have; use b64_json"
                .to_owned(),
        )
        .into());
    };
    let max = history.max_entries();
    if max < n as usize {
        return Err(bad(format!(
            "response_format url with n {n} needs a history of {n} images, but this gateway keeps {max}; use b64_json, or a smaller n"
        )));
    }
    Ok(())
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
        let read = |json: &str| read(json.as_bytes(), &[]);
        let (theirs, ours) = read(r#"{"prompt": "x", "n": 2, "steps": 3}"#).expect("valid");
        assert_eq!((theirs.n, ours.steps), (Some(2), Some(3)));
        for (json, words) in [
            (r#"{"prompt": "x", "qualty": "hd"}"#, "did you mean 'quality'?"),
            (
                r#"{"prompt": "x", "n": "two"}"#,
                "n: invalid type: string \"two\"; use a whole number from 1 to 10 at line 1 column",
            ),
            ("{\n\"prompt\": \"x\",\n  \"seed\": -1}", "at line 3 column 12"),
            (r#"{"prompt": "x", "n": 1, "n": 2}"#, "n is set twice"),
            (
                r#"{"prompt": "x", "loras": [{"name": 7}]}"#,
                "loras[0].name: invalid type: number 7; use a string",
            ),
            (r#"{"prompt": "x""#, "it ends in the middle of an object"),
        ] {
            let problem = read(json).expect_err("refused");
            assert!(problem.detail.contains(words), "{json}: {}", problem.detail);
        }
        let form = |value: Value| {
            let Value::Object(map) = value else { panic!("an object") };
            split(map).expect_err("refused").detail
        };
        let detail = form(serde_json::json!({"prompt": "x", "steps": "many"}));
        assert!(
            detail.ends_with("steps: invalid type: string \"many\"; use a whole number"),
            "{detail}"
        );
    }
}
