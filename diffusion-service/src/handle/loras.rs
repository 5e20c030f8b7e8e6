//! LoRAs of a running service.
//!
//! A change goes through the engine's queue like a picture. So a picture that is being made keeps
//! its weights to the end, and the next one finds all of a change or nothing of it.

use std::sync::{Arc, Mutex, PoisonError};

use llm_dit_fault::Fault;
use tokio::task;
use tokio_util::sync::CancellationToken;

use super::{DiffusionHandle, meters};
use crate::{
    engine::{ActiveLora, LoraChoice, LoraReport, LoraSummary, SetLorasError},
    loras::LorasFolder,
};

/// What is known of them outside the engine's thread.
#[derive(Clone, Debug)]
pub(super) struct Loras {
    /// Written by the engine's thread only, right after a change.
    active: Arc<Mutex<Vec<ActiveLora>>>,
    folder: Option<Arc<LorasFolder>>,
}

impl Loras {
    pub fn new(active: Vec<ActiveLora>) -> Self {
        Self { active: Arc::new(Mutex::new(active)), folder: None }
    }

    pub fn active(&self) -> Vec<ActiveLora> {
        self.active.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl DiffusionHandle {
    /// Lets callers choose LoRAs from this folder.
    pub fn with_loras_folder(mut self, folder: Option<LorasFolder>) -> Self {
        self.loras.folder = folder.map(Arc::new);
        self
    }

    /// What callers may choose from, or why they may not.
    pub fn loras_folder(&self) -> Result<&Arc<LorasFolder>, Fault> {
        self.loras.folder.as_ref().ok_or_else(|| {
            Fault::Unsupported(
                "this diffusion service has no LoRA folder; start it with --loras-dir DIR"
                    .to_owned(),
            )
        })
    }

    /// The LoRAs that the next picture is made with, unless a change is on its way.
    pub fn loras(&self) -> Vec<ActiveLora> {
        self.loras.active()
    }

    /// Files of the folder, with what their headers say.
    pub async fn list_loras(&self) -> Result<Vec<LoraSummary>, Fault> {
        let folder = Arc::clone(self.loras_folder()?);
        task::spawn_blocking(move || folder.list()).await.map_err(|error| {
            tracing::error!(%error, "listing LoRAs failed");
            Fault::Internal("listing the LoRA folder failed".to_owned())
        })
    }

    /// Makes pictures with these instead of those from before, all or none. A caller that leaves
    /// before its turn takes the change back.
    pub async fn set_loras(&self, choices: Vec<LoraChoice>) -> Result<LoraReport, Fault> {
        let cancel = CancellationToken::new();
        let active = Arc::clone(&self.loras.active);
        let change = self.worker.submit(&cancel, move |engine| {
            let result = engine.set_loras(&choices);
            *active.lock().unwrap_or_else(PoisonError::into_inner) = engine.loras();
            result
        })?;
        let _leaving = cancel.drop_guard();
        let end = change.wait().await.and_then(|changed| changed.map_err(fault));
        meters::count_lora_change(&end);
        end
    }
}

fn fault(error: SetLorasError) -> Fault {
    match error {
        SetLorasError::NotFound(message) => Fault::NotFound(message),
        SetLorasError::Bad(message) => Fault::BadRequest(message),
        SetLorasError::Backend(cause) => {
            tracing::error!(cause, "changing LoRAs failed");
            Fault::Internal("changing the LoRAs failed; the service's log has the cause".into())
        }
    }
}
