//! Images of finished jobs that wait in memory until they can be stored, bounded in sum.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Bytes of one permit.
const UNIT: usize = 1024;

/// Room for images that cannot be stored now.
#[derive(Debug)]
pub(super) struct Unstored {
    room: Arc<Semaphore>,
    units: u32,
}

/// Room for one image, until it is stored.
pub(super) type Room = OwnedSemaphorePermit;

impl Unstored {
    /// At most so many bytes in sum. An image that is larger alone takes all of it.
    pub fn new(bytes: usize) -> Self {
        let units = u32::try_from(bytes / UNIT).unwrap_or(u32::MAX).max(1);
        let units = units.min(u32::try_from(Semaphore::MAX_PERMITS).unwrap_or(u32::MAX));
        Self { room: Arc::new(Semaphore::new(units as usize)), units }
    }

    /// Room for so many bytes, if there is some now.
    pub fn try_take(&self, bytes: usize) -> Option<Room> {
        Arc::clone(&self.room).try_acquire_many_owned(self.units(bytes)).ok()
    }

    /// Room for so many bytes, as soon as there is some. `None` only if it were closed, which it
    /// never is.
    pub async fn take(&self, bytes: usize) -> Option<Room> {
        Arc::clone(&self.room).acquire_many_owned(self.units(bytes)).await.ok()
    }

    fn units(&self, bytes: usize) -> u32 {
        u32::try_from(bytes.div_ceil(UNIT)).unwrap_or(u32::MAX).min(self.units)
    }
}
