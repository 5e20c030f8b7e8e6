//! What a request takes before it is queued: memory before its data is received, and a place in the
//! queue when it is whole. Uploads that do not end therefore keep nobody out.

use std::sync::Arc;

use llm_dit_engine::Place;
use llm_dit_fault::Fault;
use llm_dit_memory::{MemoryBudget, Reservation};
use llm_dit_params::GenerateParams;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::DiffusionHandle;
use crate::source::Paste;

/// Init images that are decoded at the same time.
const DECODES: usize = 2;

/// Memory of a request beside its uploads, for each pixel of its image: the resized init image, the
/// pixels of the result and its PNG with 3 each, and latents with 1.
const BYTES_PER_PIXEL: u64 = 10;

/// For each pixel of the picture that a result is pasted into: its pixels and those of its mask, the
/// result at its size, and the PNG.
const PASTE_BYTES_PER_PIXEL: u64 = 10;

/// Lets a request in. Its place in the queue and its memory are free again when this is dropped.
#[derive(Debug)]
pub struct Admission {
    pub(super) place: Place,
    pub(super) memory: Reservation,
}

/// What requests share, beside the queue.
#[derive(Clone, Debug)]
pub(super) struct Shares {
    pub memory: MemoryBudget,
    decodes: Arc<Semaphore>,
}

impl Default for Shares {
    fn default() -> Self {
        Self { memory: MemoryBudget::default(), decodes: Arc::new(Semaphore::new(DECODES)) }
    }
}

impl Admission {
    /// Takes memory for the picture that the result is pasted into, and what comes of it.
    ///
    /// # Errors
    ///
    /// [`Fault::Busy`] if the memory is full, [`Fault::TooLarge`] if it never fits.
    pub(crate) fn hold_paste(&mut self, paste: &Paste) -> Result<(), Fault> {
        let (width, height) = paste.size();
        self.memory.grow(u64::from(width) * u64::from(height) * PASTE_BYTES_PER_PIXEL)
    }
}

impl DiffusionHandle {
    /// With this budget for the data of requests, instead of one of the default size.
    #[must_use]
    pub fn with_memory(mut self, memory: MemoryBudget) -> Self {
        self.shares.memory = memory;
        self
    }

    /// The budget for the data of requests.
    pub fn memory(&self) -> &MemoryBudget {
        &self.shares.memory
    }

    /// Takes memory for the result, if the queue has a place now.
    ///
    /// # Errors
    ///
    /// [`Fault::Busy`] if the queue or the memory is full, [`Fault::TooLarge`] if the image never
    /// fits; as [`DiffusionHandle::generate`] if the engine has failed.
    pub(crate) fn begin(&self, params: &GenerateParams) -> Result<Reservation, Fault> {
        // Another request may have it by the time this one is whole.
        drop(self.worker.reserve()?);
        let bytes = u64::from(params.width) * u64::from(params.height) * BYTES_PER_PIXEL;
        self.memory().reserve("the image", bytes)
    }

    /// Takes a place in the queue for a request that is whole.
    ///
    /// # Errors
    ///
    /// [`Fault::Busy`] if the queue is full; as [`DiffusionHandle::generate`] if the engine has
    /// failed.
    pub(crate) fn admit(&self, memory: Reservation) -> Result<Admission, Fault> {
        Ok(Admission { place: self.worker.reserve()?, memory })
    }

    /// Waits for the turn to decode an init image.
    pub(crate) async fn decode_turn(&self) -> Result<OwnedSemaphorePermit, Fault> {
        let decodes = Arc::clone(&self.shares.decodes);
        decodes.acquire_owned().await.map_err(|error| Fault::Internal(error.to_string()))
    }
}
