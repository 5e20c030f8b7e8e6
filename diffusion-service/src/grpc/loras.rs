//! `ListLoras`, `ApplyLoras`, `ClearLoras`.

use llm_dit_fault::Fault;
use llm_dit_proto::v1::{
    ActiveLora, ApplyLorasRequest, ApplyLorasResponse, ClearLorasResponse, ListLorasResponse,
    LoraFile, LoraSelection,
};

use crate::{
    DiffusionHandle,
    engine::{LoraChoice, LoraSummary},
    loras::{LorasFolder, LorasFolderError},
};

/// More at once would say little, and their factors are all held in memory.
const MAX_LORAS: usize = 32;
/// Trigger words are words.
const MAX_TRIGGER_BYTES: usize = 1024;

pub(super) async fn list(handle: &DiffusionHandle) -> Result<ListLorasResponse, Fault> {
    let files = handle.list_loras().await?.into_iter().map(file).collect();
    Ok(ListLorasResponse { files, active: active(handle) })
}

pub(super) async fn apply(
    handle: &DiffusionHandle,
    request: ApplyLorasRequest,
) -> Result<ApplyLorasResponse, Fault> {
    let folder = handle.loras_folder()?;
    let count = request.loras.len();
    if count > MAX_LORAS {
        return bad(format!("{count} LoRAs; the maximum is {MAX_LORAS}"));
    }
    let choices = request.loras.into_iter().map(|selection| choice(folder, selection));
    let report = handle.set_loras(choices.collect::<Result<_, _>>()?).await?;
    Ok(ApplyLorasResponse {
        matrices_changed: report.changed as u32,
        matrices_restored: report.restored as u32,
        active: report.active.iter().map(ActiveLora::from).collect(),
    })
}

/// Works without a folder, too: LoRAs may come from the command line.
pub(super) async fn clear(handle: &DiffusionHandle) -> Result<ClearLorasResponse, Fault> {
    let report = handle.set_loras(Vec::new()).await?;
    Ok(ClearLorasResponse { matrices_restored: report.restored as u32 })
}

fn active(handle: &DiffusionHandle) -> Vec<ActiveLora> {
    handle.loras().iter().map(ActiveLora::from).collect()
}

fn choice(folder: &LorasFolder, selection: LoraSelection) -> Result<LoraChoice, Fault> {
    let LoraSelection { name, scale, trigger_words } = selection;
    let scale = scale.unwrap_or(1.0);
    if !scale.is_finite() {
        return bad(format!("the scale {scale} of '{name}' must be a finite number"));
    }
    if trigger_words.len() > MAX_TRIGGER_BYTES {
        return bad(format!(
            "trigger words of '{name}' have {} bytes; the maximum is {MAX_TRIGGER_BYTES}",
            trigger_words.len()
        ));
    }
    let path = folder.find(&name).map_err(|error| match error {
        LorasFolderError::NotFound(_) => Fault::NotFound(error.to_string()),
        LorasFolderError::Outside(_)
        | LorasFolderError::Open { .. }
        | LorasFolderError::NotAFolder { .. } => Fault::BadRequest(error.to_string()),
    })?;
    Ok(LoraChoice { name, path, scale, trigger_words: trigger_words.trim().to_owned() })
}

fn file(summary: LoraSummary) -> LoraFile {
    LoraFile {
        name: summary.name,
        bytes: summary.bytes,
        modules: summary.modules as u32,
        rank: summary.rank as u32,
        alpha: summary.alpha,
        problem: summary.problem,
    }
}

fn bad<T>(message: String) -> Result<T, Fault> {
    Err(Fault::BadRequest(message))
}
