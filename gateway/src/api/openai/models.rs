//! `GET /v1/models`.

use axum::{
    Json,
    extract::{Path, State},
};
use llm_dit_fault::Fault;
use llm_dit_params::excerpt;
use serde::Serialize;
use utoipa::ToSchema;

use super::error::{OpenAiProblem, OpenAiProblems};
use crate::api::Shared;

#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ModelsAnswer {
    /// Always `list`.
    object: &'static str,
    data: Vec<ModelAnswer>,
}

#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ModelAnswer {
    id: String,
    /// Always `model`.
    object: &'static str,
    /// Unknown, always 0.
    created: u64,
    owned_by: &'static str,
}

impl ModelAnswer {
    fn new(id: String) -> Self {
        Self { id, object: "model", created: 0, owned_by: "llm-dit" }
    }
}

/// The models of the diffusion services, the default first.
#[utoipa::path(get, path = "/v1/models", tag = "OpenAI", responses((status = 200, body = ModelsAnswer), OpenAiProblems))]
pub(crate) async fn list(State(state): Shared) -> Result<Json<ModelsAnswer>, OpenAiProblem> {
    let model = state.backends.model().await?;
    let data = model.names().map(|name| ModelAnswer::new(name.to_owned())).collect();
    Ok(Json(ModelsAnswer { object: "list", data }))
}

/// One model.
#[utoipa::path(
    get, path = "/v1/models/{id}", tag = "OpenAI", params(("id" = String, Path)),
    responses((status = 200, body = ModelAnswer), OpenAiProblems)
)]
pub(crate) async fn get(
    State(state): Shared,
    Path(id): Path<String>,
) -> Result<Json<ModelAnswer>, OpenAiProblem> {
    let model = state.backends.model().await?;
    if model.names().any(|name| name == id) {
        return Ok(Json(ModelAnswer::new(id)));
    }
    let id = excerpt(&id);
    let known = model.names().collect::<Vec<_>>().join("' or '");
    Err(Fault::NotFound(format!("there is no model '{id}'; the model is '{known}'")).into())
}
