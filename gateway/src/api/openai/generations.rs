//! `POST /v1/images/generations`.

use axum::{
    extract::{Request, State},
    response::Response,
};

use super::{
    answer::{self, Asked, ImagesAnswer},
    body::{Images, ImagesBody, read},
    error::{OpenAiProblem, OpenAiProblems},
};
use crate::{
    api::body,
    api::{Shared, answer::SentEvent},
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
    let asked = Asked::of(&state, &request)?;
    let (bytes, memory) = body::bytes_with_picture(&state, request).await?;
    let (theirs, ours) = read(&bytes, &[])?;
    drop(bytes);
    let mut images = Images::check(&state, theirs, ours, None).await?;
    images.request.hold(memory);
    let admission = state.admissions.admit()?;
    Ok(answer::answer(state, images, admission, asked, "image_generation").await?)
}
