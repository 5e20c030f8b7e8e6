//! Every operation from candle's own operators: what runs on devices without kernels of ours, and
//! what the CPU kernels are tested against. Norms and softmax compute in f32 whatever the type.

use std::ops::Range;

use candle_core::{D, DType, Device, Result, Tensor};

use crate::{Attention, Conv2d, ConvInput, GroupNorm, Mask, Pairing, QkNorm, Rope, accelerated};

/// Scores that attention keeps at a time: 256 MiB in f32.
pub const MOST_SCORES: usize = 1 << 26;

/// Queries and keys normed and rotated; see [`QkNorm::forward`].
///
/// # Errors
///
/// Fails if the shapes do not fit, or if the device fails.
pub fn qk_norm_rope(
    norm: &QkNorm,
    attention: &Attention,
    qkv: &Tensor,
    rope: &Rope,
) -> Result<Tensor> {
    let (rows, _) = qkv.dims2()?;
    let Attention { heads, kv_heads, head_dim, .. } = *attention;
    let rotate = |start: usize, count: usize, weight: &Tensor| {
        let x =
            qkv.narrow(1, start * head_dim, count * head_dim)?.reshape((rows * count, head_dim))?;
        let x = rms_norm(&x.to_dtype(DType::F32)?, &weight.to_dtype(DType::F32)?, norm.eps)?;
        let (shape, axis) = match norm.pairing {
            Pairing::Interleaved => ([rows, count, head_dim / 2, 2], 3),
            Pairing::Halves => ([rows, count, 2, head_dim / 2], 2),
        };
        let x = x.reshape(&shape)?;
        let (a, b) = (x.narrow(axis, 0, 1)?.squeeze(axis)?, x.narrow(axis, 1, 1)?.squeeze(axis)?);
        let (cos, sin) = (rope.cos.unsqueeze(1)?, rope.sin.unsqueeze(1)?);
        let first = (a.broadcast_mul(&cos)? - b.broadcast_mul(&sin)?)?;
        let second = (a.broadcast_mul(&sin)? + b.broadcast_mul(&cos)?)?;
        Tensor::stack(&[first, second], axis)?
            .reshape((rows, count * head_dim))?
            .to_dtype(qkv.dtype())
    };
    let q = rotate(0, heads, &norm.q_weight)?;
    let k = rotate(heads, kv_heads, &norm.k_weight)?;
    let v = qkv.narrow(1, (heads + kv_heads) * head_dim, kv_heads * head_dim)?;
    Tensor::cat(&[&q, &k, &v], 1)
}

/// See [`Attention::forward`]. A stretch of queries at a time, so that at most [`MOST_SCORES`] scores
/// are in memory, or those of one query of each head.
///
/// # Errors
///
/// Fails if the shapes do not fit, or if the device fails.
pub fn attention(attention: &Attention, qkv: &Tensor, seq_lens: &[usize]) -> Result<Tensor> {
    attention_within(attention, qkv, seq_lens, MOST_SCORES)
}

/// [`attention`] with another bound for the scores.
///
/// # Errors
///
/// As [`attention`].
#[doc(hidden)]
pub fn attention_within(
    attention: &Attention,
    qkv: &Tensor,
    seq_lens: &[usize],
    most_scores: usize,
) -> Result<Tensor> {
    let Attention { heads, kv_heads, head_dim, mask, half } = *attention;
    let half = if half { accelerated::half_on(qkv.device())? } else { None };
    let operand = |x: &Tensor| match &half {
        Some(kernels) => kernels.narrow(x, 1.0),
        None => Ok(x.clone()),
    };
    // `a b^T` of such operands.
    let product = |a: &Tensor, b: &Tensor| match &half {
        Some(kernels) => kernels.product(a, b, 1.0),
        None => a.matmul(&b.t()?),
    };
    let scale = 1.0 / (head_dim as f64).sqrt();
    let mut start = 0;
    let mut outputs = Vec::with_capacity(seq_lens.len());
    for &len in seq_lens.iter().filter(|len| **len > 0) {
        let qkv = qkv.narrow(0, start, len)?;
        start += len;
        let part = |first: usize, count: usize| {
            let x = qkv
                .narrow(1, first * head_dim, count * head_dim)?
                .reshape((len, count, head_dim))?;
            // Each key head serves `heads / count` query heads that lie together.
            x.transpose(0, 1)?
                .unsqueeze(1)?
                .broadcast_as((count, heads / count, len, head_dim))?
                .reshape((heads, len, head_dim))?
                .contiguous()
        };
        let (q, k, v) =
            (part(0, heads)?, part(heads, kv_heads)?, part(heads + kv_heads, kv_heads)?);
        // Once for all stretches.
        let (q, k) = (operand(&q)?, operand(&k)?);
        let v = operand(&v.transpose(1, 2)?.contiguous()?)?;
        let stretch = (most_scores / (heads * len)).clamp(1, len);
        for first in (0..len).step_by(stretch) {
            let count = stretch.min(len - first);
            let q = q.narrow(1, first, count)?.contiguous()?;
            let mut scores = (product(&q, &k)?.to_dtype(DType::F32)? * scale)?;
            if mask == Mask::Causal {
                let bias = causal_bias(first..first + count, len, qkv.device())?;
                scores = scores.broadcast_add(&bias)?;
            }
            let weights = candle_nn::ops::softmax_last_dim(&scores)?.to_dtype(qkv.dtype())?;
            let attended = product(&operand(&weights)?, &v)?.transpose(0, 1)?;
            outputs.push(attended.reshape((count, heads * head_dim))?);
        }
    }
    Tensor::cat(&outputs, 0)
}

/// See [`crate::swiglu`].
///
/// # Errors
///
/// Fails unless `gate_up` has two axes, or if the device fails.
pub fn swiglu(gate_up: &Tensor) -> Result<Tensor> {
    let width = gate_up.dim(1)? / 2;
    let gate = gate_up.narrow(1, 0, width)?.contiguous()?;
    gate.silu()? * gate_up.narrow(1, width, width)?
}

/// See [`crate::rms_norm`].
///
/// # Errors
///
/// Fails if the shapes do not fit, or if the device fails.
pub fn rms_norm(x: &Tensor, weight: &Tensor, eps: f64) -> Result<Tensor> {
    let wide = x.to_dtype(DType::F32)?;
    let mean = wide.sqr()?.mean_keepdim(D::Minus1)?;
    let normed = wide.broadcast_div(&(mean + eps)?.sqrt()?)?;
    normed.broadcast_mul(&weight.to_dtype(DType::F32)?)?.to_dtype(x.dtype())
}

/// See [`crate::rms_norm_scale`].
///
/// # Errors
///
/// Fails if the shapes do not fit, or if the device fails.
pub fn rms_norm_scale(
    x: &Tensor,
    weight: &Tensor,
    scale: &Tensor,
    seq_lens: &[usize],
    eps: f64,
) -> Result<Tensor> {
    rms_norm(x, weight, eps)? * per_row(scale, seq_lens)?
}

/// See [`crate::residual_gate_norm`].
///
/// # Errors
///
/// Fails if the shapes do not fit, or if the device fails.
pub fn residual_gate_norm(
    x: &Tensor,
    y: &Tensor,
    weight: &Tensor,
    gate: Option<&Tensor>,
    seq_lens: &[usize],
    eps: f64,
) -> Result<Tensor> {
    let normed = rms_norm(y, weight, eps)?;
    match gate {
        Some(gate) => x + (normed * per_row(gate, seq_lens)?)?,
        None => x + normed,
    }
}

/// See [`crate::layer_norm_scale`].
///
/// # Errors
///
/// Fails if the shapes do not fit, or if the device fails.
pub fn layer_norm_scale(
    x: &Tensor,
    scale: &Tensor,
    seq_lens: &[usize],
    eps: f64,
) -> Result<Tensor> {
    let wide = x.to_dtype(DType::F32)?;
    let centred = wide.broadcast_sub(&wide.mean_keepdim(D::Minus1)?)?;
    let variance = centred.sqr()?.mean_keepdim(D::Minus1)?;
    centred.broadcast_div(&(variance + eps)?.sqrt()?)?.to_dtype(x.dtype())?
        * per_row(scale, seq_lens)?
}

/// See [`Conv2d::forward`].
///
/// # Errors
///
/// Fails if the shapes do not fit, or if the device fails.
pub fn conv2d(conv: &Conv2d, input: &ConvInput<'_>, residual: Option<&Tensor>) -> Result<Tensor> {
    let mut x = input.x.clone();
    if let Some(norm) = input.norm {
        x = group_norm(norm, &x)?.silu()?;
    }
    let mut x = x.permute((0, 3, 1, 2))?.contiguous()?;
    if input.upsample {
        let (_, _, h, w) = x.dims4()?;
        x = x.upsample_nearest2d(2 * h, 2 * w)?;
    }
    let (weight, bias) = conv.parameters();
    let kernel = weight.dim(2)?;
    let x = match (kernel, conv.stride()) {
        (1, _) => x.conv2d(weight, 0, 1, 1, 1)?,
        (_, 1) => x.conv2d(weight, 1, 1, 1, 1)?,
        // The downsampler pads right and below only.
        (_, stride) => {
            x.pad_with_zeros(2, 0, 1)?.pad_with_zeros(3, 0, 1)?.conv2d(weight, 0, stride, 1, 1)?
        }
    };
    let x = x.permute((0, 2, 3, 1))?.contiguous()?.broadcast_add(bias)?;
    match residual {
        Some(residual) => x + residual,
        None => Ok(x),
    }
}

/// See [`GroupNorm::forward`].
///
/// # Errors
///
/// Fails unless `x` is `(n, height, width, channels)` with channels that the groups divide, or if
/// the device fails.
pub fn group_norm(norm: &GroupNorm, x: &Tensor) -> Result<Tensor> {
    let (n, h, w, c) = x.dims4()?;
    let wide = x.to_dtype(DType::F32)?.reshape((n, h * w, norm.groups, c / norm.groups))?;
    let mean = wide.mean_keepdim(3)?.mean_keepdim(1)?;
    let centred = wide.broadcast_sub(&mean)?;
    let variance = centred.sqr()?.mean_keepdim(3)?.mean_keepdim(1)?;
    centred
        .broadcast_div(&(variance + norm.eps)?.sqrt()?)?
        .reshape((n, h, w, c))?
        .broadcast_mul(&norm.weight.to_dtype(DType::F32)?)?
        .broadcast_add(&norm.bias.to_dtype(DType::F32)?)?
        .to_dtype(x.dtype())
}

/// Each sequence's row, repeated for its tokens.
fn per_row(values: &Tensor, seq_lens: &[usize]) -> Result<Tensor> {
    let width = values.dim(1)?;
    let rows: Result<Vec<Tensor>> = seq_lens
        .iter()
        .enumerate()
        .map(|(item, &len)| values.narrow(0, item, 1)?.broadcast_as((len, width))?.contiguous())
        .collect();
    Tensor::cat(&rows?, 0)
}

/// What is added to the scores of these queries with all keys of their sequence.
fn causal_bias(queries: Range<usize>, len: usize, device: &Device) -> Result<Tensor> {
    let count = queries.len();
    let row =
        |query: usize| (0..len).map(move |key| if key > query { f32::NEG_INFINITY } else { 0.0 });
    let bias: Vec<f32> = queries.flat_map(row).collect();
    Tensor::from_vec(bias, (count, len), device)
}
