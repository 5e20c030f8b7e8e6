//! adaLN scales and gates of every block. They depend on the timestep alone, so those of all steps
//! of a request are computed before the first step.

use std::cell::RefCell;

use candle_core::{Result, Tensor};

use super::{Dit, block::Modulation};

/// One table for all blocks, a row an item: a block's parts beside each other, block after block, and
/// the last norm's scale.
#[derive(Clone)]
pub struct Modulations(Tensor);

/// Those made so far, by the items' times.
#[derive(Default)]
pub struct Made(RefCell<Vec<(Vec<f32>, Modulations)>>);

impl Modulations {
    /// The modulations of the blocks with these numbers; the noise refiner's come first.
    ///
    /// # Errors
    ///
    /// Fails if the table has no such blocks.
    pub fn blocks(&self, dit: &Dit, numbers: std::ops::Range<usize>) -> Result<Vec<Modulation>> {
        let dim = dit.config.dim;
        numbers.map(|i| Modulation::of(&self.0, i * Modulation::PARTS * dim, dim)).collect()
    }

    /// A copy in memory of its own.
    ///
    /// # Errors
    ///
    /// Fails if the device does not have the memory.
    pub fn copy(&self) -> Result<Self> {
        self.0.copy().map(Self)
    }

    /// Overwrites the values with those of `other`, which has the same shape.
    ///
    /// # Errors
    ///
    /// Fails if the shapes or dtypes differ, or if the device fails.
    pub fn set(&self, other: &Self) -> Result<()> {
        self.0.slice_set(&other.0, 0, 0)
    }

    /// The factors of all blocks beside each other; each row belongs to one item.
    pub fn table(&self) -> &Tensor {
        &self.0
    }

    /// The last norm's scale of an item, `(1, dim)`.
    ///
    /// # Errors
    ///
    /// Fails if there is no such item.
    pub fn last(&self, dit: &Dit, item: usize) -> Result<Tensor> {
        let dim = dit.config.dim;
        self.0.narrow(0, item, 1)?.narrow(1, self.0.dim(1)? - dim, dim)
    }
}

impl Made {
    /// The modulations of items at these times, computed now unless [`Self::prepare`] did so.
    ///
    /// # Errors
    ///
    /// Fails if the device fails.
    pub fn at(&self, dit: &Dit, times: &[f32]) -> Result<Modulations> {
        if let Some(made) = self.find(times) {
            return Ok(made);
        }
        let made = Modulations(dit.modulate(times)?);
        self.0.borrow_mut().push((times.to_vec(), made.clone()));
        Ok(made)
    }

    /// Computes the modulations of several steps, in each of which all items are at one time.
    ///
    /// # Errors
    ///
    /// Fails if the device fails.
    pub fn prepare(&self, dit: &Dit, items: usize, times: &[f32]) -> Result<()> {
        let steps = times.iter().map(|&time| vec![time; items]);
        let missing: Vec<Vec<f32>> = steps.filter(|step| self.find(step).is_none()).collect();
        if missing.is_empty() {
            return Ok(());
        }
        let all = dit.modulate(&missing.concat())?;
        let mut made = self.0.borrow_mut();
        for (i, step) in missing.into_iter().enumerate() {
            made.push((step, Modulations(all.narrow(0, i * items, items)?)));
        }
        Ok(())
    }

    fn find(&self, times: &[f32]) -> Option<Modulations> {
        let made = self.0.borrow();
        made.iter().find(|(at, _)| at == times).map(|(_, made)| made.clone())
    }
}

impl Dit {
    /// The table, a row a time.
    fn modulate(&self, times: &[f32]) -> Result<Tensor> {
        let adaln = self.t_embedder.forward(times, &self.device, self.dtype)?;
        let mut parts = Vec::new();
        for block in self.noise_refiner.iter().chain(&self.layers) {
            parts.extend(block.modulate(&adaln)?);
        }
        let factors = Modulation::factors(&parts, self.config.dim)?;
        let last = (self.final_modulation.forward(&adaln.silu()?)? + 1.0)?;
        Tensor::cat(&[factors, last], 1)
    }
}
