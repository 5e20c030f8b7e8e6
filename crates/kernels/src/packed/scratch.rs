//! Memory into which matrices are expanded, one at a time.

use std::fmt;

use candle_core::{DType, Device, Result, Tensor};
use parking_lot::Mutex;

/// Room for the largest matrix of those that share it.
///
/// On a device that computes asynchronously, what is enqueued with a matrix comes before what expands
/// the next one, since both are enqueued in order on one stream.
#[derive(Default)]
pub struct Scratch(Mutex<Option<Tensor>>);

impl fmt::Debug for Scratch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Scratch").finish_non_exhaustive()
    }
}

impl Scratch {
    /// Makes room for so many values. To be called before work is captured in a graph, which goes on
    /// writing to the same memory.
    ///
    /// # Errors
    ///
    /// Where the device does not have the memory.
    pub fn reserve(&self, values: usize, dtype: DType, device: &Device) -> Result<()> {
        Self::room(&mut self.0.lock(), values, dtype, device).map(drop)
    }

    fn room<'a>(
        held: &'a mut Option<Tensor>,
        values: usize,
        dtype: DType,
        device: &Device,
    ) -> Result<&'a Tensor> {
        let fits = held.as_ref().is_some_and(|room| {
            room.elem_count() >= values
                && room.dtype() == dtype
                && room.device().same_device(device)
        });
        if !fits {
            // The old one goes before the new one comes.
            *held = None;
        }
        match held {
            Some(room) => Ok(room),
            none => Ok(none.insert(Tensor::zeros(values, dtype, device)?)),
        }
    }

    /// Does something with a tensor of this shape, whose values are whatever they were. The tensor is
    /// not to be kept: the next matrix is written over it.
    ///
    /// # Errors
    ///
    /// Where the device does not have the memory; those of `work`.
    pub(super) fn with<T>(
        &self,
        shape: (usize, usize),
        dtype: DType,
        device: &Device,
        work: impl FnOnce(&Tensor) -> Result<T>,
    ) -> Result<T> {
        let mut held = self.0.lock();
        let values = shape.0 * shape.1;
        let room = Self::room(&mut held, values, dtype, device)?;
        work(&room.narrow(0, 0, values)?.reshape(shape)?)
    }
}
