//! Norms over the width of a token, with the modulation that follows them.
//!
//! `x` and `y` are packed sequences, `(tokens, width)`; results have their shape, type and device.
//! `weight` is `(width)`; `scale` and `gate` have one row for each packed sequence, `(sequences, width)`.
//! All are in the type of `x` on its device. `seq_lens` are the tokens of each sequence and add up to
//! `tokens`. Sums are f32 whatever the type. Each function refuses shapes that do not fit.

use candle_core::{Result, Tensor};

use crate::{
    accelerated, composed,
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

/// RMSNorm: `x / sqrt(mean(x^2) + eps) * weight`.
///
/// # Errors
///
/// Fails if the shapes do not fit, or if the device fails.
pub fn rms_norm(x: &Tensor, weight: &Tensor, eps: f64) -> Result<Tensor> {
    check(x, weight)?;
    if let Some(kernels) = accelerated::of(x)?
        && let Some(out) = kernels.rms_norm(x, weight, None, &[x.dim(0)?], eps)?
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
///
/// # Errors
///
/// Fails if the shapes do not fit, if `seq_lens` does not sum to the rows of `x`, or if the device
/// fails.
pub fn rms_norm_scale(
    x: &Tensor,
    weight: &Tensor,
    scale: &Tensor,
    seq_lens: &[usize],
    eps: f64,
) -> Result<Tensor> {
    check(x, weight)?;
    check_rows(x, scale, seq_lens)?;
    if let Some(kernels) = accelerated::of(x)?
        && let Some(out) = kernels.rms_norm(x, weight, Some(scale), seq_lens, eps)?
    {
        return Ok(out);
    }
    if !host::is_cpu(x) {
        return composed::rms_norm_scale(x, weight, scale, seq_lens, eps);
    }
    let mut out = vec![0f32; x.elem_count()];
    rows::rms_norm(
        &Host::new(x)?.values()?,
        &Host::new(weight)?.values()?,
        Some((&Host::new(scale)?.values()?, &sequence_of_row(seq_lens))),
        eps as f32,
        &mut out,
    );
    host::output(out, x.dims(), x.dtype())
}

/// `x + gate * rms_norm(y)`, the end of a sandwich-normed sublayer; no gate: `x + rms_norm(y)`.
///
/// # Errors
///
/// Fails if the shapes do not fit, if `seq_lens` does not sum to the rows of `x`, or if the device
/// fails.
pub fn residual_gate_norm(
    x: &Tensor,
    y: &Tensor,
    weight: &Tensor,
    gate: Option<&Tensor>,
    seq_lens: &[usize],
    eps: f64,
) -> Result<Tensor> {
    check(x, weight)?;
    if let Some(gate) = gate {
        check_rows(x, gate, seq_lens)?;
    }
    check_residual(x, y)?;
    if let Some(kernels) = accelerated::of(x)?
        && let Some((out, _)) =
            kernels.residual_gate_norm(x, y, weight, gate, None, seq_lens, eps)?
    {
        return Ok(out);
    }
    if !host::is_cpu(x) {
        return composed::residual_gate_norm(x, y, weight, gate, seq_lens, eps);
    }
    let mut out = vec![0f32; x.elem_count()];
    let gate = gate.map(Host::new).transpose()?;
    let gate = gate.as_ref().map(Host::values).transpose()?;
    let items = sequence_of_row(seq_lens);
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
///
/// # Errors
///
/// As [`residual_gate_norm`].
pub fn residual_gate_norm_next(
    x: &Tensor,
    y: &Tensor,
    weight: &Tensor,
    gate: Option<&Tensor>,
    next: &NextNorm<'_>,
    seq_lens: &[usize],
    eps: f64,
) -> Result<(Tensor, Tensor)> {
    check(x, weight)?;
    check(x, next.weight)?;
    for scale in [gate, next.scale].into_iter().flatten() {
        check_rows(x, scale, seq_lens)?;
    }
    check_residual(x, y)?;
    if let Some(kernels) = accelerated::of(x)?
        && let Some((sum, Some(normed))) =
            kernels.residual_gate_norm(x, y, weight, gate, Some(next), seq_lens, eps)?
    {
        return Ok((sum, normed));
    }
    let sum = residual_gate_norm(x, y, weight, gate, seq_lens, eps)?;
    let normed = next.forward(&sum, seq_lens, eps)?;
    Ok((sum, normed))
}

/// `x + y`, and the RMSNorm of the sum.
///
/// # Errors
///
/// Fails if the shapes do not fit, or if the device fails.
pub fn add_rms_norm(x: &Tensor, y: &Tensor, weight: &Tensor, eps: f64) -> Result<(Tensor, Tensor)> {
    check(x, weight)?;
    check_residual(x, y)?;
    if let Some(kernels) = accelerated::of(x)?
        && let Some(both) = kernels.add_rms_norm(x, y, weight, eps)?
    {
        return Ok(both);
    }
    let sum = (x + y)?;
    let normed = rms_norm(&sum, weight, eps)?;
    Ok((sum, normed))
}

/// LayerNorm without affine parameters, times the sequence's row of `scale`.
///
/// # Errors
///
/// Fails if the shapes do not fit, if `seq_lens` does not sum to the rows of `x`, or if the device
/// fails.
pub fn layer_norm_scale(
    x: &Tensor,
    scale: &Tensor,
    seq_lens: &[usize],
    eps: f64,
) -> Result<Tensor> {
    check_rows(x, scale, seq_lens)?;
    if let Some(kernels) = accelerated::of(x)?
        && let Some(out) = kernels.layer_norm_scale(x, scale, seq_lens, eps)?
    {
        return Ok(out);
    }
    if !host::is_cpu(x) {
        return composed::layer_norm_scale(x, scale, seq_lens, eps);
    }
    let (_, width) = x.dims2()?;
    let mut out = vec![0f32; x.elem_count()];
    rows::layer_norm(
        &Host::new(x)?.values()?,
        &Host::new(scale)?.values()?,
        &sequence_of_row(seq_lens),
        width,
        eps as f32,
        &mut out,
    );
    host::output(out, x.dims(), x.dtype())
}

impl NextNorm<'_> {
    /// The norm of `x`.
    ///
    /// # Errors
    ///
    /// Fails if the shapes do not fit, or if the device fails.
    pub fn forward(&self, x: &Tensor, seq_lens: &[usize], eps: f64) -> Result<Tensor> {
        match self.scale {
            Some(scale) => rms_norm_scale(x, self.weight, scale, seq_lens, eps),
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

fn check_residual(x: &Tensor, y: &Tensor) -> Result<()> {
    if x.dims() != y.dims() {
        candle_core::bail!("residual of {:?} and {:?}", x.dims(), y.dims());
    }
    Ok(())
}

fn check_rows(x: &Tensor, per_sequence: &Tensor, seq_lens: &[usize]) -> Result<()> {
    let (rows, width) = x.dims2()?;
    host::check_seq_lens(seq_lens, rows)?;
    if per_sequence.dims() != [seq_lens.len(), width] {
        candle_core::bail!(
            "modulation of shape {:?} for {} sequences",
            per_sequence.dims(),
            seq_lens.len()
        );
    }
    Ok(())
}
