//! What the time means to every block. It depends on nothing else, so that all steps of a request are
//! made at once, before the first of them.

use std::{cell::RefCell, rc::Rc};

use candle_core::{Result, Tensor};

use super::{
    Dit,
    block::{Block, Modulation},
};

/// Each with a row an item.
pub struct Modulations {
    pub noise_refiner: Vec<Option<Modulation>>,
    pub layers: Vec<Option<Modulation>>,
    /// Of the last norm.
    pub last: Tensor,
}

/// Those made so far, by the items' times.
#[derive(Default)]
pub struct Made(RefCell<Vec<(Vec<f32>, Rc<Modulations>)>>);

impl Modulations {
    fn rows(&self, start: usize, count: usize) -> Result<Self> {
        let rows = |all: &[Option<Modulation>]| {
            all.iter()
                .map(|m| m.as_ref().map(|m| m.rows(start, count)).transpose())
                .collect::<Result<Vec<_>>>()
        };
        Ok(Self {
            noise_refiner: rows(&self.noise_refiner)?,
            layers: rows(&self.layers)?,
            last: self.last.narrow(0, start, count)?,
        })
    }
}

impl Made {
    /// For items at these times; made now if [`Self::prepare`] was not asked for them.
    pub fn at(&self, dit: &Dit, times: &[f32]) -> Result<Rc<Modulations>> {
        if let Some(made) = self.find(times) {
            return Ok(made);
        }
        let made = Rc::new(dit.modulate(times)?);
        self.0.borrow_mut().push((times.to_vec(), Rc::clone(&made)));
        Ok(made)
    }

    /// Makes those of several steps, in each of which all items are at one time.
    pub fn prepare(&self, dit: &Dit, items: usize, times: &[f32]) -> Result<()> {
        let steps: Vec<Vec<f32>> = times.iter().map(|&time| vec![time; items]).collect();
        let missing: Vec<Vec<f32>> =
            steps.into_iter().filter(|step| self.find(step).is_none()).collect();
        if missing.is_empty() {
            return Ok(());
        }
        let all = dit.modulate(&missing.concat())?;
        for (i, step) in missing.into_iter().enumerate() {
            let made = Rc::new(all.rows(i * items, items)?);
            self.0.borrow_mut().push((step, made));
        }
        Ok(())
    }

    fn find(&self, times: &[f32]) -> Option<Rc<Modulations>> {
        let made = self.0.borrow();
        made.iter().find(|(at, _)| at == times).map(|(_, made)| Rc::clone(made))
    }
}

impl Dit {
    /// A row a time.
    fn modulate(&self, times: &[f32]) -> Result<Modulations> {
        let adaln = self.t_embedder.forward(times, &self.device, self.dtype)?;
        let each = |blocks: &[Block]| {
            blocks.iter().map(|block| block.modulate(&adaln)).collect::<Result<Vec<_>>>()
        };
        Ok(Modulations {
            noise_refiner: each(&self.noise_refiner)?,
            layers: each(&self.layers)?,
            last: (self.final_modulation.forward(&adaln.silu()?)? + 1.0)?,
        })
    }
}
