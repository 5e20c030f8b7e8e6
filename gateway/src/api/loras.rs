//! `/api/loras`: which there are, and which are in use.

use std::{collections::HashMap, sync::Arc};

use axum::{
    Json,
    extract::{Request, State},
};
use llm_dit_proto::v1::{ActiveLora, ListLorasRequest};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::Shared;
use crate::{
    backends::{Backend, Loras, Tried},
    body,
    error::Error,
    gateway::Gateway,
    problem::{Problem, Problems},
    request::{self, LoraBody},
};

#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct LorasBody {
    /// Every file in the folder.
    loras: Vec<LoraFileBody>,
    /// Active LoRAs, in order.
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

#[derive(Clone, Debug, Serialize, ToSchema)]
pub(crate) struct ActiveLoraBody {
    name: String,
    scale: f32,
    trigger_words: String,
    rank: u32,
    /// Number of matrices that it changes.
    matrices: u32,
    /// Keys of its file that match no module.
    unmatched: Vec<String>,
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
    /// All that are to be in use from now on.
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

impl From<ActiveLora> for ActiveLoraBody {
    fn from(lora: ActiveLora) -> Self {
        let ActiveLora { name, scale, trigger_words, rank, matrices, unmatched } = lora;
        Self { name, scale, trigger_words, rank, matrices, unmatched }
    }
}

/// The LoRA files in the folder of the diffusion services, and the active LoRAs.
#[utoipa::path(get, path = "/api/loras", tag = "LoRAs", responses((status = 200, body = LorasBody), Problems))]
pub(crate) async fn list(State(gateway): Shared) -> Result<Json<LorasBody>, Problem> {
    let mut tried = Tried::default();
    let answer = loop {
        let lease = gateway.backends.diffusion.pick(&mut tried).await?;
        let backend = Arc::clone(lease.backend());
        match lease.diffusion().list_loras(ListLorasRequest {}).await {
            Ok(answer) => break answer.into_inner(),
            Err(status) => tried.note(&backend, lease.remote.fault(status).into())?,
        }
    };
    let in_use: HashMap<&str, &ActiveLora> =
        answer.active.iter().map(|lora| (lora.name.as_str(), lora)).collect();
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
    Ok(Json(LorasBody { loras, active: answer.active.into_iter().map(Into::into).collect() }))
}

/// The active LoRAs.
#[utoipa::path(get, path = "/api/loras/active", tag = "LoRAs", responses((status = 200, body = ActiveLorasBody), Problems))]
pub(crate) async fn active(State(gateway): Shared) -> Result<Json<ActiveLorasBody>, Problem> {
    let active: Vec<ActiveLoraBody> =
        gateway.model().await?.loras.into_iter().map(Into::into).collect();
    let trigger_words = words(&active);
    Ok(Json(ActiveLorasBody { active_loras: active, trigger_words }))
}

/// Uses these LoRAs from now on, instead of those from before.
#[utoipa::path(
    post, path = "/api/loras/apply", tag = "LoRAs", request_body = ApplyBody,
    responses((status = 200, body = AppliedBody), Problems)
)]
pub(crate) async fn apply(
    State(gateway): Shared,
    request: Request,
) -> Result<Json<AppliedBody>, Problem> {
    let body: ApplyBody = body::json(request, &["loras"]).await?;
    let loras = request::loras(&body.loras)?;
    let (active, layers_updated) = gateway.set_loras(loras).await?;
    let active: Vec<ActiveLoraBody> = active.into_iter().map(Into::into).collect();
    Ok(Json(AppliedBody {
        success: true,
        layers_updated,
        active_count: active.len(),
        trigger_words: words(&active),
        active_loras: active,
    }))
}

/// Uses no LoRAs from now on.
#[utoipa::path(post, path = "/api/loras/clear", tag = "LoRAs", responses((status = 200, body = ClearedLorasBody), Problems))]
pub(crate) async fn clear(State(gateway): Shared) -> Result<Json<ClearedLorasBody>, Problem> {
    gateway.set_loras(Loras::default()).await?;
    let message = "restored the weights of the checkpoint".to_owned();
    Ok(Json(ClearedLorasBody { success: true, message }))
}

impl Gateway {
    /// Changes every diffusion service that is well, or none. The others get it when they are back.
    async fn set_loras(&self, loras: Loras) -> Result<(Vec<ActiveLora>, u32), Error> {
        // Says why when nobody is there, and asks again those that were gone.
        drop(self.backends.diffusion.pick(&mut Tried::default()).await?);
        let all = self.backends.diffusion.all();
        let well = all.into_iter().filter(|backend| backend.state().condition.is_usable());
        let mut done: Vec<(Arc<Backend>, Loras)> = Vec::new();
        let mut answer = None;
        for backend in well {
            match backend.set_loras(&loras).await {
                Ok((before, changed)) => {
                    done.push((backend, before));
                    answer.get_or_insert((changed.active, changed.matrices_changed));
                }
                Err(fault) => {
                    for (backend, before) in done {
                        if let Err(error) = backend.set_loras(&before).await {
                            tracing::error!(url = backend.url(), %error, "failed to restore the LoRAs");
                        }
                    }
                    return Err(fault.into());
                }
            }
        }
        *self.backends.loras.lock() = Some(loras);
        answer.ok_or_else(|| Error::Lost("no diffusion service is available".to_owned()))
    }
}

fn words(active: &[ActiveLoraBody]) -> String {
    let words = active.iter().map(|lora| lora.trigger_words.as_str());
    words.filter(|words| !words.is_empty()).collect::<Vec<_>>().join(" ")
}
