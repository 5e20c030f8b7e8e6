//! Convolutions as products whose rows are pixels, and the norm before them. Channels last.

mod hopper;
mod implicit;

use std::sync::OnceLock;

use candle_core::{DType, Result, Tensor};

use super::{Gpu, source::Tiling};
use crate::{ConvInput, accelerated::ConvKernel};

/// Channels of input and result come in multiples of this; spare ones are zeros that are cut off.
const ALIGNED: usize = 8;

/// A convolution on the GPU.
#[derive(Debug)]
pub(super) struct Convolution {
    stride: usize,
    /// Taps in a row of them.
    side: usize,
    /// `None` where there is no kernel for it.
    weights: Option<ConvWeights>,
}

/// A convolution's weight as the kernels read it.
#[derive(Debug)]
struct ConvWeights {
    /// `(out, side * side * in)`, taps row by row; `out` and `in` filled up with zeros.
    plain: Tensor,
    /// `(out)`.
    bias: Tensor,
    /// For doubled inputs of 3x3: an output pixel of each parity sees 2x2 pixels of the small picture,
    /// and its weights are sums of the nine. `(4, out, 4 * in)`, by row parity and column parity.
    phases: OnceLock<Tensor>,
    /// `(out, in, side, side)`.
    weight: Tensor,
}

impl Convolution {
    pub(super) fn new(weight: &Tensor, bias: &Tensor, stride: usize) -> Result<Self> {
        let side = weight.dim(3)?;
        let supported = matches!((side, stride), (1, 1) | (3, 1 | 2)) && weight.dim(2)? == side;
        let weights = supported.then(|| ConvWeights::new(weight, bias)).transpose()?;
        Ok(Self { stride, side, weights })
    }
}

impl ConvKernel for Convolution {
    fn forward(&self, input: &ConvInput<'_>, residual: Option<&Tensor>) -> Result<Option<Tensor>> {
        let Some(gpu) = Gpu::of(input.x)? else { return Ok(None) };
        let Some(weights) = &self.weights else { return Ok(None) };
        let spare = spare(input.x.dim(3)?, ALIGNED);
        if spare > 0 && input.norm.is_some() {
            return Ok(None);
        }
        let filled = if spare > 0 { Some(input.x.pad_with_zeros(3, 0, spare)?) } else { None };
        let input = ConvInput { x: filled.as_ref().unwrap_or(input.x), ..*input };
        let outs = weights.weight.dim(0)?;
        // A residual has no spare channels.
        let (folded, after) =
            if weights.plain.dim(0)? == outs { (residual, None) } else { (None, residual) };
        let fast =
            if gpu.kernels.hopper { self.on_hopper(&gpu, weights, &input, folded)? } else { None };
        let out = match fast {
            Some(out) => Some(out),
            None => self.implicit(&gpu, weights, &input, folded)?,
        };
        let Some(out) = out else { return Ok(None) };
        let out = if out.dim(3)? == outs { out } else { out.narrow(3, 0, outs)? };
        after.map_or(Ok(out.clone()), |residual| &out + residual).map(Some)
    }
}

impl ConvWeights {
    fn new(weight: &Tensor, bias: &Tensor) -> Result<Self> {
        let outs = weight.dim(0)?;
        if bias.dims() != [outs] {
            candle_core::bail!("bias of shape {:?} for {outs} channels", bias.dims());
        }
        Ok(Self {
            plain: pack(weight)?,
            bias: bias.pad_with_zeros(0, 0, spare(outs, ALIGNED))?.contiguous()?,
            phases: OnceLock::new(),
            weight: weight.clone(),
        })
    }

    fn phases(&self) -> Result<&Tensor> {
        if let Some(phases) = self.phases.get() {
            return Ok(phases);
        }
        let phase = |row: usize, column: usize| {
            let folded = fold(&fold(&self.weight.to_dtype(DType::F32)?, 2, row)?, 3, column)?;
            pack(&folded.to_dtype(self.weight.dtype())?)
        };
        let phases = [phase(0, 0)?, phase(0, 1)?, phase(1, 0)?, phase(1, 1)?];
        let phases = Tensor::stack(&phases, 0)?;
        Ok(self.phases.get_or_init(|| phases))
    }
}

/// Three taps on a doubled axis are two on the small one: at even places the last two fall on the
/// same pixel, at odd ones the first two.
fn fold(weight: &Tensor, axis: usize, parity: usize) -> Result<Tensor> {
    let tap = |i: usize| weight.narrow(axis, i, 1);
    let (first, second) =
        if parity == 0 { (tap(0)?, (tap(1)? + tap(2)?)?) } else { ((tap(0)? + tap(1)?)?, tap(2)?) };
    Tensor::cat(&[first, second], axis)
}

/// `(out, in, k, k)` to `(out, k * k * in)`, both filled up with zeros.
fn pack(weight: &Tensor) -> Result<Tensor> {
    let (outs, ins, rows, columns) = weight.dims4()?;
    let spare_ins = spare(ins, Tiling::DEPTH as usize);
    let spare_outs = spare(outs, ALIGNED);
    weight
        .permute((0, 2, 3, 1))?
        .pad_with_zeros(3, 0, spare_ins)?
        .pad_with_zeros(0, 0, spare_outs)?
        .reshape((outs + spare_outs, rows * columns * (ins + spare_ins)))?
        .contiguous()
}

/// What is missing to a multiple of `unit`.
fn spare(count: usize, unit: usize) -> usize {
    count.next_multiple_of(unit) - count
}
