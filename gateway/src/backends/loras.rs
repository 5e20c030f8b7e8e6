//! The default set: the LoRAs of requests that name none.
//!
//! A request is resolved once, and its set always goes to the diffusion service with it: its own,
//! else the default set that `/api/loras/apply` left, else the service's own default.

use std::collections::BTreeMap;

use llm_dit_fault::Fault;
use llm_dit_params::{LoraSelection, LoraSet, ParamError};
use llm_dit_proto::v1::{
    self, ActiveLora, ApplyLorasRequest, ApplyLorasResponse, ClearLorasRequest,
};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::Backend;

/// A LoRA of the default set, with what a service said of its file.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub(crate) struct ActiveLoraBody {
    pub name: String,
    pub scale: f32,
    pub trigger_words: String,
    pub rank: u32,
    /// Matrices of the model that it changes.
    pub matrices: u32,
    /// Keys of its file that fit nothing.
    pub unmatched: Vec<String>,
    /// Parts of the model, and what the scale is multiplied by there.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub blocks: BTreeMap<String, f32>,
    /// The forward passes of guidance that it is in, if not both: `positive`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pass: Option<String>,
}

/// What `/api/loras/apply` said last.
#[derive(Debug, Default)]
pub(crate) struct DefaultLoras {
    active: Mutex<Option<Vec<ActiveLoraBody>>>,
    /// One change at a time, so that all services end with the same set.
    pub changing: tokio::sync::Mutex<()>,
}

impl From<ActiveLora> for ActiveLoraBody {
    fn from(lora: ActiveLora) -> Self {
        let ActiveLora { name, scale, trigger_words, rank, matrices, unmatched, blocks, pass } =
            lora;
        let blocks = blocks.into_iter().collect();
        Self { name, scale, trigger_words, rank, matrices, unmatched, blocks, pass }
    }
}

impl DefaultLoras {
    /// `None` leaves it to the services.
    pub fn active(&self) -> Option<Vec<ActiveLoraBody>> {
        self.active.lock().clone()
    }

    /// Stores the set that the services have from now on.
    pub fn replace(&self, active: Vec<ActiveLoraBody>) {
        *self.active.lock() = Some(active);
    }

    /// As a request takes it.
    ///
    /// # Errors
    /// When what was stored is out of bounds.
    pub fn set(&self) -> Result<Option<LoraSet>, ParamError> {
        let active = self.active.lock();
        let lora = |lora: &ActiveLoraBody| -> Result<LoraSelection, ParamError> {
            LoraSelection::new(&lora.name, Some(lora.scale), &lora.trigger_words)?
                .with_scales(lora.blocks.clone())?
                .in_named_pass(lora.pass.as_deref())
        };
        let set = |active: &Vec<ActiveLoraBody>| {
            LoraSet::new(active.iter().map(lora).collect::<Result<_, _>>()?)
        };
        active.as_ref().map(set).transpose()
    }
}

impl Backend {
    /// Sets the service's default LoRAs, which the service tries on its model. Returns the previous
    /// set, for a caller that has to undo the change.
    ///
    /// # Errors
    /// When the service cannot use the set; its default is then as it was.
    pub async fn set_loras(&self, loras: &LoraSet) -> Result<(LoraSet, ApplyLorasResponse), Fault> {
        let before = self.model().await?.loras;
        let answer = if loras.is_empty() {
            // Works without a folder too.
            let answer = self.diffusion().clear_loras(ClearLorasRequest {}).await;
            answer.map(|answer| ApplyLorasResponse {
                matrices_restored: answer.into_inner().matrices_restored,
                ..Default::default()
            })
        } else {
            let request = ApplyLorasRequest { loras: v1::LoraSet::from(loras).loras };
            self.diffusion().apply_loras(request).await.map(tonic::Response::into_inner)
        };
        Ok((before, answer.map_err(|status| self.remote.fault(status))?))
    }
}
