//! `ListLoras`, `ApplyLoras`, `ClearLoras`.

use llm_dit_fault::Fault;
use llm_dit_params::LoraSet;
use llm_dit_proto::v1::{
    self, ActiveLora, ApplyLorasRequest, ApplyLorasResponse, ClearLorasResponse, ListLorasResponse,
    LoraFile,
};

use crate::{DiffusionHandle, engine::LoraSummary};

pub(super) async fn list(handle: &DiffusionHandle) -> Result<ListLorasResponse, Fault> {
    let files = handle.list_loras().await?.into_iter().map(file).collect();
    let active = handle.default_loras().iter().map(ActiveLora::from).collect();
    Ok(ListLorasResponse { files, active })
}

pub(super) async fn apply(
    handle: &DiffusionHandle,
    request: ApplyLorasRequest,
) -> Result<ApplyLorasResponse, Fault> {
    handle.loras_folder()?;
    let set = LoraSet::try_from(&v1::LoraSet { loras: request.loras })?;
    let choices = handle.choose_loras(handle.info(), Some(&set))?;
    let report = handle.set_default_loras(choices).await?;
    Ok(ApplyLorasResponse {
        matrices_changed: report.changed as u32,
        matrices_restored: report.restored as u32,
        active: report.active.iter().map(ActiveLora::from).collect(),
    })
}

/// Works without a folder, too: LoRAs may come from the command line.
pub(super) async fn clear(handle: &DiffusionHandle) -> Result<ClearLorasResponse, Fault> {
    let report = handle.set_default_loras(Vec::new()).await?;
    Ok(ClearLorasResponse { matrices_restored: report.restored as u32 })
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
