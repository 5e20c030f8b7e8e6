//! The picture that a request draws from, and its mask, while their files arrive.

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
    source::{self, MAX_FILE_BYTES, Masked, SourceError},
};

/// What a file is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    Init,
    Mask,
}

/// A file that was announced, and what has come of it.
pub(super) struct ImageUpload {
    pub role: Role,
    announced: u64,
    bytes: Vec<u8>,
    memory: Reservation,
}

impl ImageUpload {
    /// # Errors
    /// [`Fault::Unsupported`] for a control image: the model would ignore it.
    /// [`Fault::Busy`] or [`Fault::TooLarge`] if `memory` has no room for the file.
    pub fn begin(header: &ImageHeader, memory: &MemoryBudget) -> Result<Self, Fault> {
        let role = match ImageRole::try_from(header.role) {
            Ok(ImageRole::Init) => Role::Init,
            Ok(ImageRole::Mask) => Role::Mask,
            Ok(ImageRole::Control) => {
                let why = "this model takes no control image; leave it out";
                return Err(Fault::Unsupported(why.to_owned()));
            }
            Err(_) => {
                return bad(format!(
                    "unknown image role {}; send 0 (init), 1 (mask) or 2 (control)",
                    header.role
                ));
            }
        };
        source::check_media_type(&header.media_type).map_err(fault)?;
        if header.total_bytes > MAX_FILE_BYTES {
            return Err(fault(SourceError::TooLarge(header.total_bytes)));
        }
        let memory = memory.reserve(role.file(), header.total_bytes)?;
        Ok(Self { role, announced: header.total_bytes, bytes: Vec::new(), memory })
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

impl Role {
    /// As the subject of an error message.
    fn file(self) -> &'static str {
        match self {
            Self::Init => "the file of the init image",
            Self::Mask => "the file of the mask",
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::Init => "the init image",
            Self::Mask => "the mask",
        }
    }
}

/// Decodes and resizes, which is too much for an async thread. Few are decoded at the same time;
/// the others wait as files.
pub(super) async fn decode(
    file: Bytes,
    mask: Option<Bytes>,
    params: &GenerateParams,
    handle: &DiffusionHandle,
) -> Result<(Picture, Option<Masked>), Fault> {
    let params = params.clone();
    let (width, height) = (params.width, params.height);
    let turn = handle.decode_turn().await?;
    let bytes = match &mask {
        Some(mask) => source::read_masked_bytes(&file, mask, &params),
        None => source::read_bytes(&file, width, height),
    };
    let bytes = bytes.map_err(fault)?;
    let memory = handle.memory().reserve("decoding the init image", bytes)?;
    // A caller that leaves does not stop it, so it takes its turn and its memory along.
    let work = move || {
        let read = match &mask {
            Some(mask) => source::read_masked(&file, mask, &params)
                .map(|(picture, masked)| (picture, Some(masked))),
            None => source::read(&file, width, height).map(|picture| (picture, None)),
        };
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
