//! `/api/loras`: the available LoRAs and the default set.

use std::{collections::HashMap, sync::Arc};

use axum::{
    Json,
    extract::{Request, State},
};
use llm_dit_fault::Fault;
use llm_dit_params::LoraSet;
use llm_dit_proto::v1::ListLorasRequest;
use llm_dit_telemetry::request_id;
use serde::{Deserialize, Serialize};
use tracing::Instrument as _;
use utoipa::ToSchema;

use super::{Shared, problem::Problems};
use crate::{
    api::body,
    backends::{ActiveLoraBody, Backend, Tried},
    error::Error,
    records::problem::Problem,
    records::request::{self, LoraBody},
    state::AppState,
};

#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct LorasBody {
    /// Every file in the folder.
    loras: Vec<LoraFileBody>,
    /// The default set, in order.
    active: Vec<ActiveLoraBody>,
}

#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct LoraFileBody {
    name: String,
    bytes: u64,
    /// Number of modules that it changes.
    modules: u32,
    /// Largest rank of its modules.
    rank: u32,
    #[schema(required = true)]
    alpha: Option<f64>,
    /// The reason if it cannot be used.
    #[schema(required = true)]
    problem: Option<String>,
    active: bool,
    #[schema(required = true)]
    scale: Option<f32>,
    #[schema(required = true)]
    trigger_words: Option<String>,
}

#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ActiveLorasBody {
    active_loras: Vec<ActiveLoraBody>,
    /// Of all, as they go before a prompt.
    trigger_words: String,
}

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ApplyBody {
    /// The new default set.
    loras: Vec<LoraBody>,
}

#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct AppliedBody {
    success: bool,
    /// Number of matrices changed by any of them.
    layers_updated: u32,
    active_count: usize,
    trigger_words: String,
    active_loras: Vec<ActiveLoraBody>,
}

#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ClearedLorasBody {
    success: bool,
    message: String,
}

/// The LoRA files in the folder of the diffusion services, and the default set.
#[utoipa::path(get, path = "/api/loras", tag = "LoRAs", responses((status = 200, body = LorasBody), Problems))]
pub(crate) async fn list(State(state): Shared) -> Result<Json<LorasBody>, Problem> {
    let mut tried = Tried::default();
    let answer = loop {
        let lease = state.backends.diffusion.pick(&mut tried).await?;
        let backend = Arc::clone(lease.backend());
        match lease.diffusion().list_loras(ListLorasRequest {}).await {
            Ok(answer) => break answer.into_inner(),
            Err(status) => tried.note(&backend, lease.remote.fault(status).into())?,
        }
    };
    let default = state.backends.loras.active();
    let active: Vec<ActiveLoraBody> =
        default.unwrap_or_else(|| answer.active.into_iter().map(Into::into).collect());
    let in_use: HashMap<&str, &ActiveLoraBody> =
        active.iter().map(|lora| (lora.name.as_str(), lora)).collect();
    let loras = answer.files.iter().map(|file| {
        let active = in_use.get(file.name.as_str());
        LoraFileBody {
            name: file.name.clone(),
            bytes: file.bytes,
            modules: file.modules,
            rank: file.rank,
            alpha: file.alpha,
            problem: file.problem.clone(),
            active: active.is_some(),
            scale: active.map(|lora| lora.scale),
            trigger_words: active.map(|lora| lora.trigger_words.clone()),
        }
    });
    let loras = loras.collect();
    Ok(Json(LorasBody { loras, active }))
}

/// The default set: the LoRAs of requests that name none.
#[utoipa::path(get, path = "/api/loras/active", tag = "LoRAs", responses((status = 200, body = ActiveLorasBody), Problems))]
pub(crate) async fn active(State(state): Shared) -> Result<Json<ActiveLorasBody>, Problem> {
    let active = match state.backends.loras.active() {
        Some(active) => active,
        None => state.backends.model().await?.active.into_iter().map(Into::into).collect(),
    };
    let trigger_words = words(&active);
    Ok(Json(ActiveLorasBody { active_loras: active, trigger_words }))
}

/// Replaces the default set: the LoRAs of requests that name none.
#[utoipa::path(
    post, path = "/api/loras/apply", tag = "LoRAs", request_body = ApplyBody,
    responses((status = 200, body = AppliedBody), Problems)
)]
pub(crate) async fn apply(
    State(state): Shared,
    request: Request,
) -> Result<Json<AppliedBody>, Problem> {
    let body: ApplyBody = body::json(&state.memory, request, &["loras"]).await?;
    let loras = request::loras(&body.loras)?;
    let (active, layers_updated) = change(state, loras).await?;
    Ok(Json(AppliedBody {
        success: true,
        layers_updated,
        active_count: active.len(),
        trigger_words: words(&active),
        active_loras: active,
    }))
}

/// Empties the default set.
#[utoipa::path(post, path = "/api/loras/clear", tag = "LoRAs", responses((status = 200, body = ClearedLorasBody), Problems))]
pub(crate) async fn clear(State(state): Shared) -> Result<Json<ClearedLorasBody>, Problem> {
    change(state, LoraSet::default()).await?;
    let message = "restored the weights of the checkpoint".to_owned();
    Ok(Json(ClearedLorasBody { success: true, message }))
}

/// Goes on when the caller leaves, so that no change is left halfway.
async fn change(
    state: Arc<AppState>,
    loras: LoraSet,
) -> Result<(Vec<ActiveLoraBody>, u32), Problem> {
    let change = async move { set_loras(&state, loras).await };
    let changed = tokio::spawn(request_id::keep(change).in_current_span()).await;
    let failed = |error| Fault::Internal(format!("changing the LoRAs failed: {error}"));
    Ok(changed.map_err(failed)??)
}

/// Changes the default set. Every diffusion service that is well tries it on its model, or none
/// has it; it is then kept, since it goes with every request that names none.
async fn set_loras(state: &AppState, loras: LoraSet) -> Result<(Vec<ActiveLoraBody>, u32), Error> {
    let _one = state.backends.loras.changing.lock().await;
    // Fails with the reason when no service answers, and tries unreachable ones again.
    drop(state.backends.diffusion.pick(&mut Tried::default()).await?);
    let mut done = Vec::new();
    match try_loras(state, &loras, &mut done).await {
        Ok((active, changed)) => {
            state.backends.loras.replace(active.clone());
            Ok((active, changed))
        }
        Err(error) => {
            for (backend, before) in done {
                if let Err(error) = backend.set_loras(&before).await {
                    tracing::error!(url = backend.url(), %error, "failed to restore the LoRAs");
                }
            }
            Err(error)
        }
    }
}

/// `done` gets the services that have changed, with their sets from before.
async fn try_loras(
    state: &AppState,
    loras: &LoraSet,
    done: &mut Vec<(Arc<Backend>, LoraSet)>,
) -> Result<(Vec<ActiveLoraBody>, u32), Error> {
    let all = state.backends.diffusion.all();
    let mut first = None;
    for backend in all.into_iter().filter(|b| b.state().condition.is_usable()) {
        let (before, answer) = backend.set_loras(loras).await?;
        done.push((backend, before));
        first.get_or_insert(answer);
    }
    let answer =
        first.ok_or_else(|| Error::Lost("no diffusion service is available".to_owned()))?;
    let active: Vec<_> = answer.active.into_iter().map(ActiveLoraBody::from).collect();
    if let Some(history) = &state.settings {
        history.keep_loras(&active).await?;
    }
    Ok((active, answer.matrices_changed))
}

fn words(active: &[ActiveLoraBody]) -> String {
    let words = active.iter().map(|lora| lora.trigger_words.as_str());
    words.filter(|words| !words.is_empty()).collect::<Vec<_>>().join(" ")
}
