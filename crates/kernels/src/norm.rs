//! Norms over the width of a token, with the modulation that follows them.
//!
//! `scale` and `gate` have one row for each packed sequence: `(sequences, width)`.

use candle_core::{Result, Tensor};

use crate::{
    composed,
    cpu::rows::{self, sequence_of_row},
    host::{self, Host},
};

/// RMSNorm: `x / sqrt(mean(x^2) + eps) * weight`, `x` of shape `(tokens, width)`.
pub fn rms_norm(x: &Tensor, weight: &Tensor, eps: f64) -> Result<Tensor> {
    check(x, weight)?;
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

/// LayerNorm without affine parameters, times the sequence's row of `scale`.
pub fn layer_norm_scale(x: &Tensor, scale: &Tensor, lens: &[usize], eps: f64) -> Result<Tensor> {
    check_rows(x, scale, lens)?;
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
