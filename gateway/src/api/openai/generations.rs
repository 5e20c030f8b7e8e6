//! `POST /v1/images/generations`.

use axum::{
    extract::{Request, State},
    response::Response,
};

use super::{
    answer::{self, ImagesAnswer},
    body::{Images, ImagesBody, split},
    error::{OpenAiProblem, OpenAiProblems},
};
use crate::{
    api::body,
    api::{Shared, answer::SentEvent},
    records::request::GenerateBody,
};

/// Generates images, as in the OpenAI API.
#[utoipa::path(
    post, path = "/v1/images/generations", tag = "OpenAI", request_body = ImagesBody,
    responses(
        (status = 200, content((ImagesAnswer = "application/json"), (SentEvent = "text/event-stream"))),
        OpenAiProblems,
    )
)]
pub(crate) async fn generate(
    State(state): Shared,
    request: Request,
) -> Result<Response, OpenAiProblem> {
    let headers = request.headers().clone();
    let (fields, memory) = body::json_with_picture(&state, request, GenerateBody::FIELDS).await?;
    let (theirs, ours) = split(fields)?;
    let mut images = Images::check(&state, theirs, ours).await?;
    images.request.hold(memory);
    let admission = state.admissions.admit()?;
    Ok(answer::answer(state, images, admission, headers, "image_generation").await?)
}
