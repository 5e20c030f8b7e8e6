//! The gated activation of both models' feed-forward layers.

use candle_core::{Result, Tensor};

use crate::{Matrix, accelerated, composed, cpu, host};

/// A linear layer to `[gate, up]`, and `silu(gate) * up` of that.
#[derive(Clone, Debug)]
pub struct GatedLinear {
    weight: Matrix,
    /// Whether the weight's rows take turns, as the device's kernels want them.
    in_turns: bool,
}

impl GatedLinear {
    /// `weight`: `(2 * out, in)`, the gates' rows before the ups'.
    ///
    /// # Errors
    ///
    /// Where it is no matrix, or the device has no memory to lay it out anew.
    pub fn new(weight: impl Into<Matrix>) -> Result<Self> {
        let weight = weight.into();
        let (both, _) = weight.dims()?;
        // What is added to the product is added before the activation.
        if !matches!(weight, Matrix::Sided { .. })
            && let Some(kernels) = accelerated::on(weight.device(), weight.dtype())?
        {
            let turn = kernels.gate_turn();
            if both.is_multiple_of(2 * turn) {
                return Ok(Self { weight: weight.in_turns(turn)?, in_turns: true });
            }
        }
        Ok(Self { weight, in_turns: false })
    }

    /// The same without what is [added beside](Matrix::Sided) the weight, in the same memory.
    ///
    /// # Errors
    ///
    /// Where the device fails.
    pub fn without_side(&self) -> Result<Self> {
        match self.weight.without_side() {
            // Laid out anew it would take as much memory once more.
            weight @ Matrix::Dense(_) => Ok(Self { weight, in_turns: self.in_turns }),
            weight => Self::new(weight),
        }
    }

    /// `(rows, in)` to `(rows, out)`, on the weight's device in its type, or in f32 where that is f16.
    ///
    /// # Errors
    ///
    /// Where `x` is of another width, type or device.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        if self.in_turns
            && let Some(kernels) = accelerated::of(x)?
        {
            match &self.weight {
                Matrix::Dense(weight) => return kernels.gated_linear(x, weight),
                Matrix::Packed(packed) if !packed.has_side() => {
                    return packed.with_turns(|weight| kernels.gated_linear(x, weight));
                }
                // What is added to the product is added before the activation.
                _ => {}
            }
        }
        swiglu(&self.weight.forward(x)?)
    }
}

/// `silu(gate) * up` for rows of `[gate, up]`: `(tokens, 2 * width)` to `(tokens, width)`, in the same
/// type on the same device.
///
/// # Errors
///
/// Where `gate_up` is no matrix.
pub fn swiglu(gate_up: &Tensor) -> Result<Tensor> {
    let (rows, both) = gate_up.dims2()?;
    if !host::is_cpu(gate_up) {
        return composed::swiglu(gate_up);
    }
    let width = both / 2;
    let mut out = vec![0f32; rows * width];
    cpu::rows::swiglu(&host::Host::new(gate_up)?.values()?, width, &mut out);
    host::output(out, &[rows, width], gate_up.dtype())
}
