//! `POST /v1/images/edits`: a form with a picture to draw from.

use axum::{
    extract::{FromRequest as _, Multipart, Request, State, multipart::Field},
    response::Response,
};
use bytes::{Bytes, BytesMut};
use llm_dit_fault::Fault;
use llm_dit_memory::Reservation;
use serde_json::{Map, Value};
use utoipa::{
    PartialSchema, ToSchema,
    openapi::{KnownFormat, ObjectBuilder, RefOr, Schema, SchemaFormat, Type},
};

use super::{
    answer::{self, ImagesAnswer},
    body::{Images, ImagesBody, split},
    error::{OpenAiProblem, OpenAiProblems},
};
use crate::{
    api::body::{MAX_BODY_BYTES, check_breadth},
    api::{Shared, answer::SentEvent},
    error::{Error, bad},
    records::problem::Problem,
    records::request::{MAX_SOURCE_BYTES, SourceImage},
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
            form.properties.insert("image".to_owned(), file.into());
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
}

/// Copies of a field's bytes in memory, while its buffer grows.
const COPIES: u64 = 2;

/// Image-to-image, as in the OpenAI API.
#[utoipa::path(
    post, path = "/v1/images/edits", tag = "OpenAI",
    request_body(content = EditForm, content_type = "multipart/form-data"),
    responses(
        (status = 200, content((ImagesAnswer = "application/json"), (SentEvent = "text/event-stream"))),
        OpenAiProblems,
    )
)]
pub(crate) async fn edit(
    State(state): Shared,
    request: Request,
) -> Result<Response, OpenAiProblem> {
    let headers = request.headers().clone();
    let upload = state.admissions.admit_upload()?;
    let form = Multipart::from_request(request, &()).await.map_err(|error| {
        Problem::unsupported_media_type(format!(
            "send a form with the header Content-Type: multipart/form-data ({error})"
        ))
    })?;
    let mut memory = state.memory.nothing("the form");
    let Form { fields, image } = Form::read(form, &mut memory).await?;
    drop(upload);
    let image = image.ok_or_else(|| bad("missing field `image`: the init image".to_owned()))?;
    let image = SourceImage::from_file(image)?;
    let (theirs, mut ours) = split(fields)?;
    // Checked below, once there is something that it belongs to.
    let strength = ours.strength.take();
    let mut images = Images::check(&state, theirs, ours).await?;
    images.request.image = Some(image);
    images.request.hold(memory);
    images.request.body.strength = strength;
    let admission = state.admissions.admit()?;
    Ok(answer::answer(state, images, admission, headers, "image_edit").await?)
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
                "mask" => {
                    let why = "mask is not supported; leave it out and use strength";
                    return Err(Fault::Unsupported(why.to_owned()).into());
                }
                name => {
                    let name = name.to_owned();
                    let text = bytes(part, &name, MAX_BODY_BYTES, memory).await?;
                    let text = String::from_utf8(text.to_vec())
                        .map_err(|_| bad(format!("{name:.40} is not UTF-8 text")))?;
                    let value = if TEXTS.contains(&&*name) {
                        Value::String(text)
                    } else {
                        check_breadth(text.as_bytes())?;
                        // What is no JSON is refused with its name where its type is known.
                        serde_json::from_str(&text).unwrap_or(Value::String(text))
                    };
                    if form.fields.insert(name.clone(), value).is_some() {
                        return Err(bad(format!("{name:.40} comes twice")));
                    }
                }
            }
        }
        Ok(form)
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
                return Err(Fault::TooLarge(format!("{name:.40} is over {limit} MiB")).into());
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
