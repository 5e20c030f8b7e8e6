//! Norms over the width of a token, with the modulation that follows them.
//!
//! `scale` and `gate` have one row for each packed sequence: `(sequences, width)`.

use candle_core::{Result, Tensor};

#[cfg(feature = "cuda")]
use crate::cuda::Gpu;
use crate::{
    composed,
    cpu::rows::{self, sequence_of_row},
    host::{self, Host},
};

/// The RMSNorm that a sublayer begins with, times a row of `scale` for each sequence where there is
/// one.
#[derive(Clone, Copy, Debug)]
pub struct NextNorm<'a> {
    pub weight: &'a Tensor,
    pub scale: Option<&'a Tensor>,
}

/// RMSNorm: `x / sqrt(mean(x^2) + eps) * weight`, `x` of shape `(tokens, width)`.
pub fn rms_norm(x: &Tensor, weight: &Tensor, eps: f64) -> Result<Tensor> {
    check(x, weight)?;
    #[cfg(feature = "cuda")]
    if let Some(gpu) = Gpu::of(x)?
        && let Some(out) = gpu.rms_norm(x, weight, None, &[x.dim(0)?], eps)?
    {
        return Ok(out);
    }
    if !host::is_cpu(x) {
        return composed::rms_norm(x, weight, eps);
    }
    let mut out = vec![0f32; x.elem_count()];
    rows::rms_norm(
        &Host::new(x)?.values()?,
        &Host::new(weight)?.values()?,
        None,
        eps as f32,
        &mut out,
    );
    host::output(out, x.dims(), x.dtype())
}

/// [`rms_norm`] times the sequence's row of `scale`.
pub fn rms_norm_scale(
    x: &Tensor,
    weight: &Tensor,
    scale: &Tensor,
    lens: &[usize],
    eps: f64,
) -> Result<Tensor> {
    check(x, weight)?;
    check_rows(x, scale, lens)?;
    #[cfg(feature = "cuda")]
    if let Some(gpu) = Gpu::of(x)?
        && let Some(out) = gpu.rms_norm(x, weight, Some(scale), lens, eps)?
    {
        return Ok(out);
    }
    if !host::is_cpu(x) {
        return composed::rms_norm_scale(x, weight, scale, lens, eps);
    }
    let mut out = vec![0f32; x.elem_count()];
    rows::rms_norm(
        &Host::new(x)?.values()?,
        &Host::new(weight)?.values()?,
        Some((&Host::new(scale)?.values()?, &sequence_of_row(lens))),
        eps as f32,
        &mut out,
    );
    host::output(out, x.dims(), x.dtype())
}

/// `x + gate * rms_norm(y)`, the end of a sandwich-normed sublayer; no gate: `x + rms_norm(y)`.
pub fn residual_gate_norm(
    x: &Tensor,
    y: &Tensor,
    weight: &Tensor,
    gate: Option<&Tensor>,
    lens: &[usize],
    eps: f64,
) -> Result<Tensor> {
    check(x, weight)?;
    if let Some(gate) = gate {
        check_rows(x, gate, lens)?;
    }
    if x.dims() != y.dims() {
        candle_core::bail!("residual of {:?} and {:?}", x.dims(), y.dims());
    }
    #[cfg(feature = "cuda")]
    if let Some(gpu) = Gpu::of(x)?
        && let Some((out, _)) = gpu.residual_gate_norm(x, y, weight, gate, None, lens, eps)?
    {
        return Ok(out);
    }
    if !host::is_cpu(x) {
        return composed::residual_gate_norm(x, y, weight, gate, lens, eps);
    }
    let mut out = vec![0f32; x.elem_count()];
    let gate = gate.map(Host::new).transpose()?;
    let gate = gate.as_ref().map(Host::values).transpose()?;
    let items = sequence_of_row(lens);
    rows::residual_gate_norm(
        &Host::new(x)?.values()?,
        &Host::new(y)?.values()?,
        &Host::new(weight)?.values()?,
        gate.as_deref().map(|g| (g, items.as_slice())),
        eps as f32,
        &mut out,
    );
    host::output(out, x.dims(), x.dtype())
}

/// [`residual_gate_norm`], and the norm that the next sublayer begins with, of the sum: one pass over
/// memory on a GPU.
pub fn residual_gate_norm_next(
    x: &Tensor,
    y: &Tensor,
    weight: &Tensor,
    gate: Option<&Tensor>,
    next: &NextNorm<'_>,
    lens: &[usize],
    eps: f64,
) -> Result<(Tensor, Tensor)> {
    #[cfg(feature = "cuda")]
    if let Some(gpu) = Gpu::of(x)? {
        check(x, weight)?;
        check(x, next.weight)?;
        for scale in [gate, next.scale].into_iter().flatten() {
            check_rows(x, scale, lens)?;
        }
        if x.dims() != y.dims() {
            candle_core::bail!("residual of {:?} and {:?}", x.dims(), y.dims());
        }
        let fused = gpu.residual_gate_norm(x, y, weight, gate, Some(next), lens, eps)?;
        if let Some((sum, Some(normed))) = fused {
            return Ok((sum, normed));
        }
    }
    let sum = residual_gate_norm(x, y, weight, gate, lens, eps)?;
    let normed = next.forward(&sum, lens, eps)?;
    Ok((sum, normed))
}

/// `x + y`, and the RMSNorm of the sum.
pub fn add_rms_norm(x: &Tensor, y: &Tensor, weight: &Tensor, eps: f64) -> Result<(Tensor, Tensor)> {
    check(x, weight)?;
    if x.dims() != y.dims() {
        candle_core::bail!("residual of {:?} and {:?}", x.dims(), y.dims());
    }
    #[cfg(feature = "cuda")]
    if let Some(gpu) = Gpu::of(x)?
        && let Some(both) = gpu.add_rms_norm(x, y, weight, eps)?
    {
        return Ok(both);
    }
    let sum = (x + y)?;
    let normed = rms_norm(&sum, weight, eps)?;
    Ok((sum, normed))
}

/// LayerNorm without affine parameters, times the sequence's row of `scale`.
pub fn layer_norm_scale(x: &Tensor, scale: &Tensor, lens: &[usize], eps: f64) -> Result<Tensor> {
    check_rows(x, scale, lens)?;
    #[cfg(feature = "cuda")]
    if let Some(gpu) = Gpu::of(x)?
        && let Some(out) = gpu.layer_norm_scale(x, scale, lens, eps)?
    {
        return Ok(out);
    }
    if !host::is_cpu(x) {
        return composed::layer_norm_scale(x, scale, lens, eps);
    }
    let (_, width) = x.dims2()?;
    let mut out = vec![0f32; x.elem_count()];
    rows::layer_norm(
        &Host::new(x)?.values()?,
        &Host::new(scale)?.values()?,
        &sequence_of_row(lens),
        width,
        eps as f32,
        &mut out,
    );
    host::output(out, x.dims(), x.dtype())
}

impl NextNorm<'_> {
    /// The norm of `x`.
    pub fn forward(&self, x: &Tensor, lens: &[usize], eps: f64) -> Result<Tensor> {
        match self.scale {
            Some(scale) => rms_norm_scale(x, self.weight, scale, lens, eps),
            None => rms_norm(x, self.weight, eps),
        }
    }
}

fn check(x: &Tensor, weight: &Tensor) -> Result<()> {
    let (_, width) = x.dims2()?;
    if weight.dims() != [width] {
        candle_core::bail!("norm weight of shape {:?} for width {width}", weight.dims());
    }
    Ok(())
}

fn check_rows(x: &Tensor, per_sequence: &Tensor, lens: &[usize]) -> Result<()> {
    let (rows, width) = x.dims2()?;
    host::check_lens(lens, rows)?;
    if per_sequence.dims() != [lens.len(), width] {
        candle_core::bail!(
            "modulation of shape {:?} for {} sequences",
            per_sequence.dims(),
            lens.len()
        );
    }
    Ok(())
}
