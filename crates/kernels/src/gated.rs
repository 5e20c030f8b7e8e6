//! The gated activation of both models' feed-forward layers.

use candle_core::{Result, Tensor};

use crate::{Linear, composed, cpu, host};

/// A linear layer to `[gate, up]`, and `silu(gate) * up` of that.
#[derive(Clone, Debug)]
pub struct GatedLinear {
    linear: Linear,
    /// Whether the weight's rows are eight gates, eight ups, and so on. Then the two that belong
    /// together meet in one thread of a GPU, and the activation costs no pass over memory.
    #[cfg(feature = "cuda")]
    interleaved: Option<Tensor>,
}

impl GatedLinear {
    /// `weight`: `(2 * out, in)`, the gates' rows before the ups'.
    pub fn new(weight: Tensor) -> Result<Self> {
        #[cfg(feature = "cuda")]
        if let Some(interleaved) = interleave(&weight)? {
            let linear = Linear::new(interleaved.clone(), None);
            return Ok(Self { linear, interleaved: Some(interleaved) });
        }
        Ok(Self {
            linear: Linear::new(weight, None),
            #[cfg(feature = "cuda")]
            interleaved: None,
        })
    }

    /// `(rows, in)` to `(rows, out)`.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        #[cfg(feature = "cuda")]
        if let (Some(weight), Some(gpu)) = (&self.interleaved, crate::cuda::Gpu::of(x)?) {
            return match gpu.matmul(x, weight, None, true)? {
                Some(out) => Ok(out),
                None => gpu.swiglu_interleaved(&self.linear.forward(x)?),
            };
        }
        swiglu(&self.linear.forward(x)?)
    }
}

/// `silu(gate) * up` for rows of `[gate, up]`: `(tokens, 2 * width)` to `(tokens, width)`.
pub fn swiglu(gate_up: &Tensor) -> Result<Tensor> {
    if !host::is_cpu(gate_up) {
        return composed::swiglu(gate_up);
    }
    let (rows, both) = gate_up.dims2()?;
    let width = both / 2;
    let mut out = vec![0f32; rows * width];
    cpu::rows::swiglu(&host::Host::new(gate_up)?.values()?, width, &mut out);
    host::output(out, &[rows, width], gate_up.dtype())
}

/// The rows in turns of eight, where the GPU's kernels want them so.
#[cfg(feature = "cuda")]
fn interleave(weight: &Tensor) -> Result<Option<Tensor>> {
    const TURN: usize = 8;
    let (both, ins) = weight.dims2()?;
    if crate::cuda::Gpu::of(weight)?.is_none() || !both.is_multiple_of(2 * TURN) {
        return Ok(None);
    }
    let turns = both / 2 / TURN;
    let rows = weight.reshape((2, turns, TURN, ins))?.transpose(0, 1)?.contiguous()?;
    rows.reshape((both, ins)).map(Some)
}
