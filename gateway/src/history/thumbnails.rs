//! Small versions of pictures. They are made beside the database's thread, where whoever sends a job
//! would wait for them.

use std::sync::Arc;

use bytes::Bytes;
use llm_dit_fault::Fault;
use llm_dit_memory::MemoryBudget;
use llm_dit_pictures::{size, thumbnail};
use tokio::task;

use super::History;

/// Pixels along the longer side.
const SIDE: u32 = 256;
/// A picture takes much more memory than its file.
pub(super) const AT_ONCE: usize = 2;

impl History {
    /// A small JPEG of a picture, made on first use. `None` if there is no such picture, or if it
    /// cannot be decoded.
    ///
    /// # Errors
    ///
    /// [`Fault`] if the database fails, or there is no memory to decode the picture.
    pub async fn thumbnail(&self, id: u64, memory: &MemoryBudget) -> Result<Option<Bytes>, Fault> {
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
        // The file and its pixels. What has no size is refused below.
        let (width, height) = size(&picture.file).unwrap_or_default();
        let decoded = u64::from(width) * u64::from(height) * 4;
        let memory = memory.reserve("the thumbnail", picture.file.len() as u64 + decoded)?;
        let make = move || {
            // It goes on when the caller leaves, and so do its turn and its memory.
            let _held = (turn, memory);
            thumbnail(&picture.file, SIDE)
        };
        let small = match task::spawn_blocking(make).await {
            Ok(Ok(small)) => small,
            Ok(Err(error)) => {
                tracing::warn!(id, %error, "failed to read an image of the history");
                return Ok(None);
            }
            Err(error) => {
                return Err(Fault::Internal(format!("making a thumbnail failed: {error}")));
            }
        };
        let file = small.clone();
        let kept = self.ask(move |store| store.put_thumbnail(id, &file)).await;
        if let Err(error) = kept {
            tracing::warn!(id, %error, "failed to store a thumbnail");
        }
        Ok(Some(small))
    }
}
