//! What is stored of browsers' sessions, so that one that was ended stays so after a restart.

use llm_dit_fault::Fault;

use super::EmbeddedHistory;

/// The name of the setting.
const SESSIONS: &str = "sessions";

impl EmbeddedHistory {
    /// What was kept last; `None` if nothing was.
    ///
    /// # Errors
    ///
    /// [`Fault`] if the database fails.
    pub async fn sessions(&self) -> Result<Option<Vec<u8>>, Fault> {
        self.ask(|store| store.setting(SESSIONS)).await
    }

    /// Returns when it is on disk.
    ///
    /// # Errors
    ///
    /// [`Fault`] if it cannot be kept.
    pub async fn keep_sessions(&self, json: Vec<u8>) -> Result<(), Fault> {
        self.ask(move |store| store.set(SESSIONS, &json)).await
    }
}
