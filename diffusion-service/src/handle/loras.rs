//! LoRAs of a running service: the set of a request that names none, and the files behind names.
//!
//! A job carries its own set, which the engine's thread fuses in the job's turn. So a change of the
//! default never reaches a job that was accepted before it, and no job reaches the default.

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
};

use llm_dit_fault::Fault;
use llm_dit_params::{LoraSelection, LoraSet};
use tokio::task;
use tokio_util::sync::CancellationToken;

use super::{DiffusionHandle, meters};
use crate::{
    engine::{
        ActiveLora, InspectLora, LoraChoice, LoraReport, LoraSummary, ModelInfo, SetLorasError,
    },
    loras::{LorasFolder, LorasFolderError},
};

/// What is known of them outside the engine's thread.
#[derive(Clone)]
pub(super) struct Loras {
    /// For requests that name none. Written by the engine's thread only, right after it has fused
    /// them.
    default: Arc<Mutex<Vec<ActiveLora>>>,
    /// Those of the command line, which may lie outside the folder.
    started: Arc<[LoraChoice]>,
    folder: Option<Arc<LorasFolder>>,
    inspect: InspectLora,
}

impl fmt::Debug for Loras {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { default, started, folder, inspect: _ } = self;
        (default, started, folder).fmt(f)
    }
}

impl Loras {
    pub fn new(started: Vec<ActiveLora>, inspect: InspectLora) -> Self {
        Self {
            started: started.iter().map(|lora| lora.choice.clone()).collect(),
            default: Arc::new(Mutex::new(started)),
            folder: None,
            inspect,
        }
    }

    pub fn default_set(&self) -> Vec<ActiveLora> {
        self.default.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn folder(&self) -> Result<&Arc<LorasFolder>, Fault> {
        self.folder.as_ref().ok_or_else(|| {
            Fault::Unsupported(
                "this diffusion service has no LoRA folder; start it with --loras-dir DIR"
                    .to_owned(),
            )
        })
    }

    /// The file of a selection. `nth` counts selections of the same name: the command line may name
    /// two files of one name, and the second selection means the second file.
    fn choice(&self, selection: &LoraSelection, nth: usize) -> Result<LoraChoice, Fault> {
        let name = selection.name();
        let mut started = self.started.iter().filter(|choice| choice.name == name);
        let path = match started.clone().nth(nth).or_else(|| started.next_back()) {
            Some(choice) => choice.path.clone(),
            None => self.folder()?.find(name).map_err(not_found)?,
        };
        Ok(LoraChoice {
            name: name.to_owned(),
            path,
            scale: selection.scale(),
            trigger_words: selection.trigger_words().to_owned(),
            blocks: selection.blocks().clone(),
            pass: selection.pass(),
        })
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
        self.loras.folder()
    }

    /// The LoRAs of requests that name none.
    pub fn default_loras(&self) -> Vec<ActiveLora> {
        self.loras.default_set()
    }

    /// The files of a request's set, or of the default set: first those that the service was started
    /// with, then those of the folder. The default set belongs to the default model: others have none.
    ///
    /// # Errors
    /// When there is no file of a name, or no folder to look in.
    pub fn choose_loras(
        &self,
        model: &ModelInfo,
        set: Option<&LoraSet>,
    ) -> Result<Vec<LoraChoice>, Fault> {
        let Some(set) = set else {
            if model.model != self.info().model {
                return Ok(Vec::new());
            }
            return Ok(self.default_loras().into_iter().map(|lora| lora.choice).collect());
        };
        let choice = |(at, lora): (usize, &LoraSelection)| {
            let same = set.iter().take(at).filter(|other| other.name() == lora.name());
            self.loras.choice(lora, same.count())
        };
        set.iter().enumerate().map(choice).collect()
    }

    /// Files of the folder, with what their headers say.
    pub async fn list_loras(&self) -> Result<Vec<LoraSummary>, Fault> {
        let folder = Arc::clone(self.loras_folder()?);
        let inspect = Arc::clone(&self.loras.inspect);
        task::spawn_blocking(move || folder.list(&inspect)).await.map_err(|error| {
            tracing::error!(%error, "listing LoRAs failed");
            Fault::Internal("listing the LoRA folder failed".to_owned())
        })
    }

    /// Replaces the default set, once the engine has fused all of it. Dropping the future before the
    /// change runs cancels it.
    ///
    /// # Errors
    /// When the engine cannot use the files; the default is then as it was.
    pub async fn set_default_loras(&self, choices: Vec<LoraChoice>) -> Result<LoraReport, Fault> {
        let cancel = CancellationToken::new();
        let default = Arc::clone(&self.loras.default);
        let change = self.worker.submit(&cancel, move |engines| {
            // The default model is always there.
            let engine = engines
                .turn(None)
                .ok_or_else(|| SetLorasError::Backend("there is no default model".to_owned()))?;
            let report = engine.set_loras(&choices)?;
            default.lock().unwrap_or_else(PoisonError::into_inner).clone_from(&report.active);
            Ok(report)
        })?;
        let _leaving = cancel.drop_guard();
        let end = change.wait().await.and_then(|changed| changed.map_err(fault));
        meters::count_lora_change(&end);
        end
    }
}

fn not_found(error: LorasFolderError) -> Fault {
    match error {
        LorasFolderError::NotFound(_) => Fault::NotFound(error.to_string()),
        LorasFolderError::Outside(_)
        | LorasFolderError::Open { .. }
        | LorasFolderError::NotAFolder { .. } => Fault::BadRequest(error.to_string()),
    }
}

/// What an engine's error about LoRAs means for the caller; internal causes end in the log.
pub(super) fn fault(error: SetLorasError) -> Fault {
    match error {
        SetLorasError::NotFound(message) => Fault::NotFound(message),
        SetLorasError::Bad(message) => Fault::BadRequest(message),
        SetLorasError::NotFinite(message) => Fault::Unprocessable(message),
        SetLorasError::Backend(cause) => {
            tracing::error!(cause, "changing LoRAs failed");
            Fault::Internal("changing the LoRAs failed; the service's log has the cause".into())
        }
    }
}
