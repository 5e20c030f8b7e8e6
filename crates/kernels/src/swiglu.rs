//! The gated activation of both models' feed-forward layers.

use candle_core::{Result, Tensor};

use crate::{composed, cpu, host};

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
