//! Small versions of pictures. They are made beside the database's thread, where whoever sends a job
//! would wait for them.

use std::sync::Arc;

use bytes::Bytes;
use llm_dit_fault::Fault;
use llm_dit_memory::MemoryBudget;
use llm_dit_pictures::{size, thumbnail};
use tokio::{sync::OwnedSemaphorePermit, task};

use super::{EmbeddedHistory, History as _};

/// Pixels along the longer side.
const SIDE: u32 = 256;
/// A picture takes much more memory than its file.
pub(crate) const AT_ONCE: usize = 2;

impl EmbeddedHistory {
    /// A small JPEG of a picture, made on first use. `None` if there is no such picture, or if it
    /// cannot be decoded.
    ///
    /// # Errors
    ///
    /// [`Fault`] if the database fails, or there is no memory to decode the picture.
    pub(super) async fn make_thumbnail(
        &self,
        id: u64,
        memory: &MemoryBudget,
    ) -> Result<Option<Bytes>, Fault> {
        if let Some(known) = self.ask(move |store| store.thumbnail(id)).await? {
            return Ok(Some(known));
        }
        let gone = |_| Fault::Internal("the history makes no thumbnails any more".to_owned());
        let turn = Arc::clone(&self.thumbnails).acquire_owned().await.map_err(gone)?;
        // Somebody else may have had the turn before.
        if let Some(known) = self.ask(move |store| store.thumbnail(id)).await? {
            return Ok(Some(known));
        }
        let Some(picture) = self.picture(id).await? else { return Ok(None) };
        let Some(small) = small(id, picture.file, turn, memory).await? else { return Ok(None) };
        let file = small.clone();
        let kept = self.ask(move |store| store.put_thumbnail(id, &file)).await;
        if let Err(error) = kept {
            tracing::warn!(id, %error, "failed to store a thumbnail");
        }
        Ok(Some(small))
    }
}

/// A small JPEG of image `id` of a history. `None` if it cannot be decoded. `turn` is one of
/// [`AT_ONCE`].
///
/// # Errors
///
/// [`Fault`] if there is no memory to decode it.
pub(crate) async fn small(
    id: u64,
    file: Bytes,
    turn: OwnedSemaphorePermit,
    memory: &MemoryBudget,
) -> Result<Option<Bytes>, Fault> {
    // The file and its pixels. What has no size is refused below.
    let (width, height) = size(&file).unwrap_or_default();
    let decoded = u64::from(width) * u64::from(height) * 4;
    let memory = memory.reserve("the thumbnail", file.len() as u64 + decoded)?;
    let make = move || {
        // It goes on when the caller leaves, and so do its turn and its memory.
        let _held = (turn, memory);
        thumbnail(&file, SIDE)
    };
    match task::spawn_blocking(make).await {
        Ok(Ok(small)) => Ok(Some(small)),
        Ok(Err(error)) => {
            tracing::warn!(id, %error, "failed to read an image of the history");
            Ok(None)
        }
        Err(error) => Err(Fault::Internal(format!("making a thumbnail failed: {error}"))),
    }
}
