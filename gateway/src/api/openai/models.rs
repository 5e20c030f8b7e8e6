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
use crate::{api::Shared, options::ModelAlias, records::model::Model};

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
    /// The model that this name stands for, if it is an alias.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    alias_of: Option<String>,
}

impl ModelAnswer {
    fn new(id: String) -> Self {
        Self { id, object: "model", created: 0, owned_by: "llm-dit", alias_of: None }
    }
}

/// The model that a name means, perhaps through an alias.
///
/// # Errors
///
/// [`Fault::NotFound`] if there is no such model.
pub(super) fn resolve(
    aliases: &[ModelAlias],
    model: &Model,
    wanted: &str,
) -> Result<String, Fault> {
    let is_model = |name: &str| model.names().any(|known| known == name);
    let alias = aliases.iter().find(|alias| alias.name == wanted);
    match alias {
        Some(ModelAlias { model: target, .. }) if !is_model(wanted) => {
            if is_model(target) {
                return Ok(target.clone());
            }
            let known = model.names().collect::<Vec<_>>().join("' or '");
            Err(Fault::NotFound(format!(
                "'{wanted}' is an alias of the model '{target}', which does not exist; set --model-alias to '{known}'"
            )))
        }
        _ => Ok(model.named(Some(wanted))?.name.clone()),
    }
}

/// All names: models, the default first, then the aliases of models that exist.
fn listed(aliases: &[ModelAlias], model: &Model) -> Vec<ModelAnswer> {
    let is_model = |name: &str| model.names().any(|known| known == name);
    let mut all: Vec<_> = model.names().map(|name| ModelAnswer::new(name.to_owned())).collect();
    let aliases = aliases.iter().filter(|alias| !is_model(&alias.name) && is_model(&alias.model));
    all.extend(aliases.map(|alias| ModelAnswer {
        alias_of: Some(alias.model.clone()),
        ..ModelAnswer::new(alias.name.clone())
    }));
    all
}

/// The models of the diffusion services, the default first, and the names that stand for them.
#[utoipa::path(get, path = "/v1/models", tag = "OpenAI", responses((status = 200, body = ModelsAnswer), OpenAiProblems))]
pub(crate) async fn list(State(state): Shared) -> Result<Json<ModelsAnswer>, OpenAiProblem> {
    let model = state.backends.model().await?;
    let data = listed(&state.aliases, &model);
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
    let all = listed(&state.aliases, &model);
    let known = all.iter().map(|model| &*model.id).collect::<Vec<_>>().join("' or '");
    all.into_iter().find(|model| model.id == id).map(Json).ok_or_else(|| {
        let id = excerpt(&id);
        Fault::NotFound(format!("there is no model '{id}'; the model is '{known}'")).into()
    })
}
