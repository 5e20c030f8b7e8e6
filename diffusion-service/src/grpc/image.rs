//! The picture that a request draws from, while its file arrives.

use bytes::Bytes;
use llm_dit_fault::Fault;
use llm_dit_memory::{MemoryBudget, Reservation};
use llm_dit_params::GenerateParams;
use llm_dit_proto::{
    tensor::extend_within,
    v1::{ImageHeader, ImageRole},
};

use crate::{
    DiffusionHandle,
    engine::Picture,
    source::{self, MAX_FILE_BYTES, SourceError},
};

/// A file that was announced, and what has come of it.
pub(super) struct ImageUpload {
    announced: u64,
    bytes: Vec<u8>,
    memory: Reservation,
}

impl ImageUpload {
    /// # Errors
    /// [`Fault::Unsupported`] for a role other than the init image: the model would ignore it.
    /// [`Fault::Busy`] or [`Fault::TooLarge`] if `memory` has no room for the file.
    pub fn begin(header: &ImageHeader, memory: &MemoryBudget) -> Result<Self, Fault> {
        let unsupported = match ImageRole::try_from(header.role) {
            Ok(ImageRole::Init) => None,
            Ok(ImageRole::Mask) => Some("mask"),
            Ok(ImageRole::Control) => Some("control image"),
            Err(_) => {
                return bad(format!(
                    "unknown image role {}; send 0 (init), 1 (mask) or 2 (control)",
                    header.role
                ));
            }
        };
        if let Some(role) = unsupported {
            return Err(Fault::Unsupported(format!("this model takes no {role}; leave it out")));
        }
        source::check_media_type(&header.media_type).map_err(fault)?;
        if header.total_bytes > MAX_FILE_BYTES {
            return Err(fault(SourceError::TooLarge(header.total_bytes)));
        }
        let memory = memory.reserve("the file of the init image", header.total_bytes)?;
        Ok(Self { announced: header.total_bytes, bytes: Vec::new(), memory })
    }

    /// Appends the next bytes of the file.
    ///
    /// # Errors
    ///
    /// [`Fault`] if more bytes arrive than were announced.
    pub fn push(&mut self, chunk: &[u8]) -> Result<(), Fault> {
        if (self.bytes.len() + chunk.len()) as u64 > self.announced {
            return bad(format!("image: more than the announced {} bytes arrived", self.announced));
        }
        extend_within(&mut self.bytes, chunk, self.announced as usize);
        Ok(())
    }

    /// The complete file.
    ///
    /// # Errors
    ///
    /// [`Fault`] if bytes are missing.
    pub fn finish(self) -> Result<Bytes, Fault> {
        if self.bytes.len() as u64 != self.announced {
            let (got, announced) = (self.bytes.len(), self.announced);
            return bad(format!("image: {got} of {announced} bytes arrived"));
        }
        Ok(self.memory.hold(self.bytes.into()))
    }
}

/// Decodes and resizes, which is too much for an async thread. Few are decoded at the same time;
/// the others wait as files.
pub(super) async fn decode(
    file: Bytes,
    params: &GenerateParams,
    handle: &DiffusionHandle,
) -> Result<Picture, Fault> {
    let (width, height) = (params.width, params.height);
    let turn = handle.decode_turn().await?;
    let bytes = source::read_bytes(&file, width, height).map_err(fault)?;
    let memory = handle.memory().reserve("decoding the init image", bytes)?;
    // A caller that leaves does not stop it, so it takes its turn and its memory along.
    let work = move || {
        let read = source::read(&file, width, height);
        // In this order: the next one finds the memory free when its turn comes.
        drop(memory);
        drop(turn);
        read
    };
    let read = tokio::task::spawn_blocking(work).await.map_err(|error| {
        tracing::error!(%error, "reading the init image failed");
        Fault::Internal("the init image could not be read".to_owned())
    })?;
    read.map_err(fault)
}

fn fault(error: SourceError) -> Fault {
    Fault::BadRequest(error.to_string())
}

fn bad<T>(message: String) -> Result<T, Fault> {
    Err(Fault::BadRequest(message))
}
