//! The default set of LoRAs, beside the pictures, so that a restarted gateway knows it.

use llm_dit_fault::Fault;

use super::EmbeddedHistory;
use crate::backends::ActiveLoraBody;

/// The name of the setting.
const LORAS: &str = "loras";

impl EmbeddedHistory {
    /// The set that was kept last; `None` if none was.
    ///
    /// # Errors
    /// When the database fails. What cannot be read is logged and counts as none.
    pub async fn loras(&self) -> Result<Option<Vec<ActiveLoraBody>>, Fault> {
        let Some(json) = self.ask(|store| store.setting(LORAS)).await? else { return Ok(None) };
        Ok(serde_json::from_slice(&json)
            .inspect_err(|error| tracing::error!(%error, "failed to read the stored LoRA set"))
            .ok())
    }

    /// Returns when the set is on disk.
    ///
    /// # Errors
    /// When it cannot be kept.
    pub async fn keep_loras(&self, active: &[ActiveLoraBody]) -> Result<(), Fault> {
        let failed = |error| Fault::Internal(format!("the LoRAs could not be written: {error}"));
        let json = serde_json::to_vec(active).map_err(failed)?;
        self.ask(move |store| store.set(LORAS, &json)).await
    }
}
