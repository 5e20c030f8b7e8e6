//! Which LoRAs a picture is made with.
//!
//! A diffusion service has one set of LoRAs for all its pictures, and a change of it waits in the
//! same queue as they do. So a picture with LoRAs of its own is: change, queue the picture, and
//! only then let anybody else change or queue. A lock beside each backend does that. The next
//! picture without a wish puts back what was there before.

use std::collections::HashSet;

use llm_dit_fault::Fault;
use llm_dit_proto::v1::{
    ActiveLora, ApplyLorasRequest, ApplyLorasResponse, ClearLorasRequest, ListLorasRequest,
    LoraSelection,
};
use tokio::sync::{OwnedRwLockReadGuard, OwnedRwLockWriteGuard};

use super::{Backend, Model};

/// All LoRAs that are to be in use, in order.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Loras(pub Vec<LoraSelection>);

/// For as long as this lives, the weights of a backend do not change by our doing.
#[derive(Debug)]
pub(crate) struct LoraHold {
    _guard: OwnedRwLockReadGuard<Option<Loras>>,
}

impl Loras {
    fn is(&self, active: &[ActiveLora]) -> bool {
        let same = |(wanted, active): (&LoraSelection, &ActiveLora)| {
            wanted.name == active.name
                && wanted.scale.unwrap_or(1.0) == active.scale
                && wanted.trigger_words == active.trigger_words
        };
        self.0.len() == active.len() && self.0.iter().zip(active).all(same)
    }
}

impl From<&[ActiveLora]> for Loras {
    fn from(active: &[ActiveLora]) -> Self {
        let selection = |lora: &ActiveLora| LoraSelection {
            name: lora.name.clone(),
            scale: Some(lora.scale),
            trigger_words: lora.trigger_words.clone(),
        };
        Self(active.iter().map(selection).collect())
    }
}

impl Backend {
    /// Gives the weights what a request wants (`wish`), else what everybody wants (`common`), else
    /// what they had before somebody's wish, and keeps them so.
    pub async fn with_loras(
        &self,
        wish: Option<&Loras>,
        common: Option<&Loras>,
    ) -> Result<(LoraHold, Model), Fault> {
        let guard = self.diverted.clone().read_owned().await;
        let model = self.model().await?;
        let wanted = wish.or(common).or(guard.as_ref());
        if wanted.is_none_or(|wanted| wanted.is(&model.loras)) {
            return Ok((LoraHold { _guard: guard }, model));
        }
        drop(guard);

        let mut guard = self.diverted.clone().write_owned().await;
        let model = self.model().await?;
        let wanted = wish.or(common).cloned().or_else(|| guard.clone());
        let Some(wanted) = wanted.filter(|wanted| !wanted.is(&model.loras)) else {
            return Ok((hold(guard), model));
        };
        let before = Loras::from(&model.loras[..]);
        if wish.is_some() && common.is_none() && guard.is_none() {
            self.check_return(&before).await?;
        }
        self.apply(&wanted).await?;
        if wish.is_none() || common.is_some() {
            *guard = None;
        } else if guard.is_none() {
            *guard = Some(before);
        }
        let model = self.model().await?;
        Ok((hold(guard), model))
    }

    /// Sets the LoRAs for everybody. What was in use before comes back, for who has to undo it.
    pub async fn set_loras(&self, loras: &Loras) -> Result<(Loras, ApplyLorasResponse), Fault> {
        let mut guard = self.diverted.clone().write_owned().await;
        let before = Loras::from(&self.model().await?.loras[..]);
        let answer = self.apply(loras).await?;
        *guard = None;
        Ok((before, answer))
    }

    async fn apply(&self, loras: &Loras) -> Result<ApplyLorasResponse, Fault> {
        if loras.0.is_empty() {
            // Works without a folder too.
            let answer = self.diffusion().clear_loras(ClearLorasRequest {}).await;
            let answer = answer.map_err(|status| self.remote.fault(status))?.into_inner();
            let matrices_restored = answer.matrices_restored;
            return Ok(ApplyLorasResponse { matrices_restored, ..Default::default() });
        }
        let request = ApplyLorasRequest { loras: loras.0.clone() };
        let answer = self.diffusion().apply_loras(request).await;
        Ok(answer.map_err(|status| self.remote.fault(status))?.into_inner())
    }

    /// LoRAs from outside the folder could not be brought back.
    async fn check_return(&self, before: &Loras) -> Result<(), Fault> {
        if before.0.is_empty() {
            return Ok(());
        }
        let answer = self.diffusion().list_loras(ListLorasRequest {}).await;
        let files = answer.map_err(|status| self.remote.fault(status))?.into_inner().files;
        let names: HashSet<&str> = files.iter().map(|file| file.name.as_str()).collect();
        match before.0.iter().find(|lora| !names.contains(lora.name.as_str())) {
            None => Ok(()),
            Some(lora) => Err(Fault::Unsupported(format!(
                "the diffusion service was started with the LoRA {}, which is not in its --loras-dir and could not be brought back; leave out loras, or choose them for everybody with /api/loras/apply",
                lora.name
            ))),
        }
    }
}

fn hold(guard: OwnedRwLockWriteGuard<Option<Loras>>) -> LoraHold {
    LoraHold { _guard: guard.downgrade() }
}
