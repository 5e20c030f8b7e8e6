//! Forwards of the same shape as one launch each: the second is captured, and replayed from then on.
//!
//! A captured graph reads and writes fixed memory. So each shape has a set of tensors of its own, into
//! which a forward's inputs are copied; that is a few megabytes against a forward's gigabytes.

use std::thread::{self, ThreadId};

use candle_core::{DType, Device, Result, Tensor};
use llm_dit_device::{CapturedGraph, warm_up};
use llm_dit_kernels::Rope;
use parking_lot::Mutex;

use super::{Conditioning, Dit, Inputs, layout::Layout, modulation::Modulations};

/// Shapes that are kept; the one that was used longest ago makes room.
const MOST_SHAPES: usize = 4;

/// Captured forwards of one transformer. They read its weights where they lie, so they go when the
/// weights change.
#[derive(Default)]
pub struct GraphCache(Mutex<Vec<Slot>>);

struct Slot {
    layout: Layout,
    /// What the captions are of.
    conditioning: u64,
    latents: Vec<Tensor>,
    captions: Vec<Tensor>,
    image_rope: Rope,
    unified_rope: Rope,
    modulations: Modulations,
    outputs: Vec<Tensor>,
    state: State,
    /// Small uploads that a graph refers to are kept by the thread that made them.
    thread: ThreadId,
}

enum State {
    WarmedUp,
    Captured(CapturedGraph),
    /// It cannot be captured; the cause was logged.
    Refused,
}

impl GraphCache {
    /// Forgets everything.
    pub fn clear(&mut self) {
        self.0.get_mut().clear();
    }

    /// Likewise, beside others who hold it.
    pub fn forget(&self) {
        self.0.lock().clear();
    }

    /// The forward, if it is one that is captured: `None` on devices without graphs, and for types
    /// whose operations are composed.
    ///
    /// # Errors
    ///
    /// Fails if capture or launch of the graph fails.
    pub fn forward(
        &self,
        dit: &Dit,
        latents: &[Tensor],
        modulations: &Modulations,
        conditioning: &Conditioning,
    ) -> Result<Option<Vec<Tensor>>> {
        if !matches!(dit.device, Device::Cuda(_)) || dit.dtype != DType::BF16 {
            return Ok(None);
        }
        // A panic in the midst of a forward leaves at worst tensors with other values.
        let mut slots = self.0.lock();
        // What another thread captured is of no use here; the model has moved on.
        let here = thread::current().id();
        slots.retain(|slot| slot.thread == here);
        let known = slots.iter().position(|slot| slot.layout.same_shape(&conditioning.layout));
        let mut slot = match known {
            Some(at) => slots.remove(at),
            None => Slot::new(dit, latents, modulations, conditioning)?,
        };
        if matches!(slot.state, State::Refused) {
            slots.push(slot);
            return Ok(None);
        }
        let outputs = slot.forward(dit, latents, modulations, conditioning, known.is_none())?;
        // The one used last is last.
        if slots.len() == MOST_SHAPES {
            slots.remove(0);
        }
        slots.push(slot);
        Ok(Some(outputs))
    }
}

impl Slot {
    fn new(
        dit: &Dit,
        latents: &[Tensor],
        modulations: &Modulations,
        conditioning: &Conditioning,
    ) -> Result<Self> {
        let room = |x: &Tensor| Tensor::zeros(x.shape(), DType::F32, &dit.device);
        let latents = latents.iter().map(room).collect::<Result<Vec<_>>>()?;
        let copies = |all: &[Tensor]| all.iter().map(Tensor::copy).collect::<Result<Vec<_>>>();
        let rope = |rope: &Rope| {
            Ok::<_, candle_core::Error>(Rope { cos: rope.cos.copy()?, sin: rope.sin.copy()? })
        };
        Ok(Self {
            layout: conditioning.layout.clone(),
            conditioning: conditioning.id,
            outputs: copies(&latents)?,
            latents,
            captions: copies(&conditioning.captions)?,
            image_rope: rope(&conditioning.image_rope)?,
            unified_rope: rope(&conditioning.unified_rope)?,
            modulations: modulations.copy()?,
            state: State::WarmedUp,
            thread: thread::current().id(),
        })
    }

    fn forward(
        &mut self,
        dit: &Dit,
        latents: &[Tensor],
        modulations: &Modulations,
        conditioning: &Conditioning,
        first: bool,
    ) -> Result<Vec<Tensor>> {
        for (own, given) in self.latents.iter().zip(latents) {
            own.slice_set(
                &given.to_device(&dit.device)?.to_dtype(DType::F32)?.contiguous()?,
                0,
                0,
            )?;
        }
        self.modulations.set(modulations)?;
        if self.conditioning != conditioning.id {
            for (own, given) in self.captions.iter().zip(&conditioning.captions) {
                own.slice_set(given, 0, 0)?;
            }
            self.conditioning = conditioning.id;
        }
        if first {
            return warm_up(&dit.device, || dit.compute(&self.inputs()));
        }
        if matches!(self.state, State::WarmedUp) {
            self.capture(dit);
        }
        match &self.state {
            State::Captured(graph) => {
                graph.replay()?;
                // The next replay writes over them.
                self.outputs.iter().map(Tensor::copy).collect()
            }
            State::WarmedUp | State::Refused => dit.compute(&self.inputs()),
        }
    }

    fn capture(&mut self, dit: &Dit) {
        let inputs = self.inputs();
        let work = || {
            for (own, made) in self.outputs.iter().zip(dit.compute(&inputs)?) {
                own.slice_set(&made, 0, 0)?;
            }
            Ok(())
        };
        self.state = match CapturedGraph::capture(&dit.device, self.tensors(), work) {
            Ok(Some(graph)) => State::Captured(graph),
            Ok(None) => State::Refused,
            Err(error) => {
                tracing::warn!(%error, "failed to capture a forward pass as a CUDA graph; launching its kernels one by one");
                State::Refused
            }
        };
    }

    fn inputs(&self) -> Inputs<'_> {
        Inputs {
            layout: &self.layout,
            latents: &self.latents,
            captions: &self.captions,
            image_rope: &self.image_rope,
            unified_rope: &self.unified_rope,
            modulations: self.modulations.clone(),
        }
    }

    fn tensors(&self) -> Vec<Tensor> {
        let ropes = [&self.image_rope, &self.unified_rope];
        let mut all: Vec<Tensor> =
            ropes.iter().flat_map(|rope| [rope.cos.clone(), rope.sin.clone()]).collect();
        all.extend(self.latents.iter().chain(&self.captions).chain(&self.outputs).cloned());
        all.push(self.modulations.table().clone());
        all
    }
}
