//! `POST /v1/images/edits`: a form with a picture to draw from, or JSON with one.

use axum::{
    extract::{FromRequest as _, Multipart, Request, State, multipart::Field},
    response::Response,
};
use bytes::{Bytes, BytesMut};
use llm_dit_fault::Fault;
use llm_dit_memory::Reservation;
use llm_dit_params::excerpt;
use llm_dit_pictures::{SourceError, decode_bytes, mask_of_alpha};
use serde::Deserialize;
use serde_json::{Map, Value};
use tokio::task;
use utoipa::{
    PartialSchema, ToSchema,
    openapi::{KnownFormat, ObjectBuilder, RefOr, Schema, SchemaFormat, Type},
};

use super::{
    answer::{self, Asked, ImagesAnswer},
    body::{self as fields, Images, ImagesBody, OpenAiBody, split},
    error::{OpenAiProblem, OpenAiProblems},
};
use crate::{
    api::{
        Shared,
        answer::SentEvent,
        body::{self, MAX_BODY_BYTES, check_breadth, is_json},
    },
    error::{Error, bad},
    records::problem::Problem,
    records::request::{GenerateBody, MAX_SOURCE_BYTES, SourceFile, SourceImage},
    state::AppState,
};

/// Fields of a form, most of which are optional.
const MAX_FIELDS: usize = 64;

/// Fields whose text is not to be taken for JSON.
const TEXTS: [&str; 18] = [
    "prompt",
    "negative_prompt",
    "scheduler",
    "template",
    "system_prompt",
    "thinking_content",
    "assistant_content",
    "encoder",
    "output_format",
    "model",
    "size",
    "response_format",
    "user",
    "quality",
    "style",
    "moderation",
    "background",
    "input_fidelity",
];

/// What the OpenAPI document says of the form: the fields of generations, but a file for the image.
pub(crate) struct EditForm;

impl PartialSchema for EditForm {
    fn schema() -> RefOr<Schema> {
        let mut form = ImagesBody::schema();
        if let RefOr::T(Schema::Object(form)) = &mut form {
            let file = ObjectBuilder::new()
                .schema_type(Type::String)
                .format(Some(SchemaFormat::KnownFormat(KnownFormat::Binary)))
                .description(Some("A PNG, JPEG or WebP file of at most 16 MiB."));
            let mask = ObjectBuilder::new()
                .schema_type(Type::String)
                .format(Some(SchemaFormat::KnownFormat(KnownFormat::Binary)))
                .description(Some("A PNG as large as the image; its transparent part is edited."));
            form.properties.insert("image".to_owned(), file.into());
            form.properties.insert("mask".to_owned(), mask.into());
            form.required.push("image".to_owned());
        }
        form
    }
}

impl ToSchema for EditForm {
    fn schemas(schemas: &mut Vec<(String, RefOr<Schema>)>) {
        ImagesBody::schemas(schemas);
    }
}

/// A form that was read.
#[derive(Default)]
struct Form {
    fields: Map<String, Value>,
    image: Option<Bytes>,
    mask: Option<Bytes>,
}

/// Copies of a field's bytes in memory, while its buffer grows.
const COPIES: u64 = 2;

/// A picture in a JSON body.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ImageReference {
    /// A `data:` URL in base64.
    #[serde(default)]
    #[schema(required = true, nullable = false)]
    image_url: Option<String>,
    /// Files are not stored here.
    #[serde(default)]
    #[schema(ignore)]
    file_id: Option<String>,
}

/// What a JSON body has in place of the form's files.
#[derive(Debug, Default, Deserialize, ToSchema)]
pub(crate) struct EditFiles {
    /// One init image.
    #[serde(default)]
    images: Option<Vec<ImageReference>>,
    /// As large as the image; its transparent part is edited.
    #[serde(default)]
    mask: Option<ImageReference>,
}

/// What the OpenAPI document says of a JSON body.
pub(crate) struct EditBody;

impl PartialSchema for EditBody {
    fn schema() -> RefOr<Schema> {
        let mut body = ImagesBody::schema();
        if let (RefOr::T(Schema::Object(body)), RefOr::T(Schema::Object(files))) =
            (&mut body, EditFiles::schema())
        {
            body.properties.extend(files.properties);
        }
        body
    }
}

impl ToSchema for EditBody {
    fn schemas(schemas: &mut Vec<(String, RefOr<Schema>)>) {
        ImagesBody::schemas(schemas);
        EditFiles::schemas(schemas);
    }
}

/// Image-to-image, as in the OpenAI API.
#[utoipa::path(
    post, path = "/v1/images/edits", tag = "OpenAI",
    request_body(content((EditForm = "multipart/form-data"), (EditBody = "application/json"))),
    responses(
        (status = 200, content((ImagesAnswer = "application/json"), (SentEvent = "text/event-stream"))),
        OpenAiProblems,
    )
)]
pub(crate) async fn edit(
    State(state): Shared,
    request: Request,
) -> Result<Response, OpenAiProblem> {
    let asked = Asked::of(&state, &request)?;
    let (theirs, ours, image, memory) = if is_json(request.headers()) {
        read_json(&state, request).await?
    } else {
        read_form(&state, request).await?
    };
    let mut images = Images::check(&state, theirs, ours, Some(image)).await?;
    images.request.hold(memory);
    let admission = state.admissions.admit()?;
    Ok(answer::answer(state, images, admission, asked, "image_edit").await?)
}

type Edit = (OpenAiBody, GenerateBody, SourceImage, Reservation);

async fn read_form(state: &AppState, request: Request) -> Result<Edit, Problem> {
    let upload = state.admissions.admit_upload()?;
    let form = Multipart::from_request(request, &()).await.map_err(|error| {
        Problem::unsupported_media_type(format!(
            "send a form with the header Content-Type: multipart/form-data, or JSON with Content-Type: application/json ({error})"
        ))
    })?;
    let mut memory = state.memory.nothing("the form");
    let Form { fields, image, mask } = Form::read(form, &mut memory).await?;
    drop(upload);
    let of_mask = if mask.is_some() { ", which mask needs" } else { "" };
    let image =
        image.ok_or_else(|| bad(format!("missing field `image`: the init image{of_mask}")))?;
    let image = SourceFile::new("image", image)?;
    let mask = mask.map(|mask| SourceFile::new("mask", mask)).transpose()?;
    let (theirs, ours) = split(fields)?;
    let image = with_mask(state, image, mask).await?;
    Ok((theirs, ours, image, memory))
}

async fn read_json(state: &AppState, request: Request) -> Result<Edit, Problem> {
    const FILES: [&str; 2] = ["images", "mask"];
    let (bytes, memory) = body::bytes_with_picture(state, request).await?;
    let (theirs, mut ours) = fields::read(&bytes, &FILES)?;
    let files: EditFiles = body::parse_members(&bytes, &FILES, |name| FILES.contains(&name))?;
    drop(bytes);
    let image = match (ours.image.take(), files.images) {
        (Some(image), None) => image,
        (None, Some(images)) => one("images[0]", "images", images)?,
        (None, None) => return Err(bad("missing field `images`: one init image".to_owned()).into()),
        (Some(_), Some(_)) => {
            return Err(bad("give image or images, but not both".to_owned()).into());
        }
    };
    let image = SourceFile::from_text("image", image)?;
    let mask = files.mask.map(|mask| one("mask", "mask", vec![mask])).transpose()?;
    let mask = mask.map(|mask| SourceFile::from_text("mask", mask)).transpose()?;
    Ok((theirs, ours, with_mask(state, image, mask).await?, memory))
}

/// The picture with its mask, which the transparency of another file is.
async fn with_mask(
    state: &AppState,
    image: SourceFile,
    mask: Option<SourceFile>,
) -> Result<SourceImage, Error> {
    let Some(mask) = mask else { return Ok(SourceImage::new(image, None)) };
    if mask.size() != image.size() {
        let ((w, h), (width, height)) = (mask.size(), image.size());
        return Err(bad(format!(
            "the mask has {w}x{h} pixels and the image {width}x{height}; send both of one size"
        )));
    }
    let wrong = |error: SourceError| bad(format!("mask: {error}"));
    let bytes = decode_bytes(mask.bytes()).map_err(wrong)?;
    let memory = state.memory.reserve("decoding the mask", bytes)?;
    let file = mask.bytes().clone();
    // Moved along: it goes on when the caller leaves.
    let convert = move || {
        let converted = mask_of_alpha(&file);
        drop(memory);
        converted
    };
    let failed = |error| Error::Lost(format!("reading the mask failed: {error}"));
    let file = task::spawn_blocking(convert).await.map_err(failed)?.map_err(wrong)?;
    Ok(SourceImage::new(image, Some(SourceFile::new("mask", file)?)))
}

/// The one file of a field, whose first item is named `first`.
fn one(first: &str, field: &str, images: Vec<ImageReference>) -> Result<String, Error> {
    let mut images = images.into_iter();
    match (images.next(), images.next()) {
        (Some(ImageReference { image_url: Some(url), file_id: None }), None) => Ok(url),
        (Some(ImageReference { file_id: Some(_), .. }), None) => Err(bad(format!(
            "{first}.file_id is not supported; send the file as a data: URL in image_url"
        ))),
        (Some(_), None) => Err(bad(format!("{first}: missing field `image_url`"))),
        (None, _) => Err(bad(format!("{field} is empty; send one init image"))),
        (Some(_), Some(_)) => Err(bad("several images; only one is supported".to_owned())),
    }
}

impl Form {
    async fn read(mut parts: Multipart, memory: &mut Reservation) -> Result<Self, Error> {
        let broken = |error: axum::extract::multipart::MultipartError| {
            bad(format!("the form cannot be read: {}", error.body_text()))
        };
        let mut form = Self::default();
        let mut count = 0;
        while let Some(part) = parts.next_field().await.map_err(broken)? {
            count += 1;
            if count > MAX_FIELDS {
                return Err(bad(format!("the form has more than {MAX_FIELDS} fields")));
            }
            match part.name().unwrap_or_default() {
                "image" | "image[]" if form.image.is_some() => {
                    return Err(bad("several images; only one is supported".to_owned()));
                }
                "image" | "image[]" => {
                    form.image = Some(bytes(part, "image", MAX_SOURCE_BYTES, memory).await?);
                }
                "mask" if form.mask.is_some() => {
                    return Err(bad("mask comes twice; give it once".to_owned()));
                }
                "mask" => {
                    form.mask = Some(bytes(part, "mask", MAX_SOURCE_BYTES, memory).await?);
                }
                name if part.file_name().is_some() => {
                    let name = excerpt(name);
                    return Err(bad(format!(
                        "unknown file field '{name}'; the image goes in 'image', its mask in 'mask'"
                    )));
                }
                name => {
                    let name = name.to_owned();
                    let text = bytes(part, &name, MAX_BODY_BYTES, memory).await?;
                    form.text(name, &text)?;
                }
            }
        }
        Ok(form)
    }

    fn text(&mut self, name: String, bytes: &[u8]) -> Result<(), Error> {
        let shown = excerpt(&name);
        let text = str::from_utf8(bytes).map_err(|_| {
            bad(format!("{shown}: it is not UTF-8 text; the image goes in 'image'"))
        })?;
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        let value = if TEXTS.contains(&&*name) {
            Value::String(text.to_owned())
        } else {
            check_breadth(text.as_bytes())?;
            // What is no JSON is refused with its name where its type is known.
            serde_json::from_str(text).unwrap_or_else(|_| Value::String(text.to_owned()))
        };
        if self.fields.insert(name, value).is_some() {
            return Err(bad(format!("{shown} comes twice; give it once")));
        }
        Ok(())
    }
}

async fn bytes(
    mut part: Field<'_>,
    name: &str,
    limit: usize,
    memory: &mut Reservation,
) -> Result<Bytes, Error> {
    let mut bytes = BytesMut::new();
    loop {
        match part.chunk().await {
            Ok(Some(chunk)) if chunk.len() > limit - bytes.len() => {
                let limit = limit >> 20;
                return Err(
                    Fault::TooLarge(format!("{} is over {limit} MiB", excerpt(name))).into()
                );
            }
            Ok(Some(chunk)) => {
                memory.grow(chunk.len() as u64 * COPIES)?;
                bytes.extend_from_slice(&chunk);
            }
            Ok(None) => return Ok(bytes.freeze()),
            Err(error) => {
                return Err(bad(format!("the form cannot be read: {}", error.body_text())));
            }
        }
    }
}
