//! Kernels that treat each token by itself.

use rayon::prelude::*;

use super::{math, simd::Simd};

/// Rows one task takes; below this the hand-over costs more than the work.
const ROWS: usize = 32;

/// Runs `f(first_row, rows)` over blocks of rows of `out`, in parallel.
fn for_row_blocks(out: &mut [f32], width: usize, f: impl Fn(usize, &mut [f32]) + Sync) {
    let simd = Simd::new();
    out.par_chunks_mut(ROWS * width).enumerate().for_each(|(block, rows)| {
        simd.run(
            #[inline(always)]
            || f(block * ROWS, rows),
        )
    });
}

/// For each row, which of the packed sequences it belongs to.
pub(crate) fn sequence_of_row(seq_lens: &[usize]) -> Vec<usize> {
    seq_lens.iter().enumerate().flat_map(|(item, &len)| std::iter::repeat_n(item, len)).collect()
}

/// `x / rms(x) * weight * scale[item]`.
pub(crate) fn rms_norm(
    x: &[f32],
    weight: &[f32],
    scale: Option<(&[f32], &[usize])>,
    eps: f32,
    out: &mut [f32],
) {
    let width = weight.len();
    for_row_blocks(
        out,
        width,
        #[inline(always)]
        |first, rows| {
            for (i, out) in rows.chunks_exact_mut(width).enumerate() {
                let row = first + i;
                let x = &x[row * width..][..width];
                let inverse = inverse_rms(x, eps);
                match scale {
                    Some((scale, item)) => {
                        let scale = &scale[item[row] * width..][..width];
                        for (((o, &x), &w), &s) in out.iter_mut().zip(x).zip(weight).zip(scale) {
                            *o = x * inverse * w * s;
                        }
                    }
                    None => {
                        for ((o, &x), &w) in out.iter_mut().zip(x).zip(weight) {
                            *o = x * inverse * w;
                        }
                    }
                }
            }
        },
    );
}

/// `x + gate[item] * (y / rms(y) * weight)`.
pub(crate) fn residual_gate_norm(
    x: &[f32],
    y: &[f32],
    weight: &[f32],
    gate: Option<(&[f32], &[usize])>,
    eps: f32,
    out: &mut [f32],
) {
    let width = weight.len();
    for_row_blocks(
        out,
        width,
        #[inline(always)]
        |first, rows| {
            for (i, out) in rows.chunks_exact_mut(width).enumerate() {
                let row = first + i;
                let (x, y) = (&x[row * width..][..width], &y[row * width..][..width]);
                let inverse = inverse_rms(y, eps);
                match gate {
                    Some((gate, item)) => {
                        let gate = &gate[item[row] * width..][..width];
                        for ((((o, &x), &y), &w), &g) in
                            out.iter_mut().zip(x).zip(y).zip(weight).zip(gate)
                        {
                            *o = (y * inverse * w).mul_add(g, x);
                        }
                    }
                    None => {
                        for (((o, &x), &y), &w) in out.iter_mut().zip(x).zip(y).zip(weight) {
                            *o = (y * inverse).mul_add(w, x);
                        }
                    }
                }
            }
        },
    );
}

/// `(x - mean) / std * scale[item]`, the biased variance as PyTorch takes it.
pub(crate) fn layer_norm(
    x: &[f32],
    scale: &[f32],
    item: &[usize],
    width: usize,
    eps: f32,
    out: &mut [f32],
) {
    for_row_blocks(
        out,
        width,
        #[inline(always)]
        |first, rows| {
            for (i, out) in rows.chunks_exact_mut(width).enumerate() {
                let row = first + i;
                let x = &x[row * width..][..width];
                let scale = &scale[item[row] * width..][..width];
                let mean = math::sum_by(x, |v| v) / width as f32;
                let variance = math::sum_by(x, |v| (v - mean) * (v - mean)) / width as f32;
                let inverse = 1.0 / (variance + eps).sqrt();
                for ((o, &x), &s) in out.iter_mut().zip(x).zip(scale) {
                    *o = (x - mean) * inverse * s;
                }
            }
        },
    );
}

/// `silu(first half) * second half` of rows of `2 * width`.
pub(crate) fn swiglu(x: &[f32], width: usize, out: &mut [f32]) {
    for_row_blocks(
        out,
        width,
        #[inline(always)]
        |first, rows| {
            for (i, out) in rows.chunks_exact_mut(width).enumerate() {
                let (gate, up) = x[(first + i) * 2 * width..][..2 * width].split_at(width);
                for ((o, &g), &u) in out.iter_mut().zip(gate).zip(up) {
                    *o = math::silu(g) * u;
                }
            }
        },
    );
}

/// How a head's values are paired for the rotation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pairing {
    /// (0, 1), (2, 3), ...: complex numbers, as in Z-Image.
    Interleaved,
    /// (0, d/2), (1, d/2 + 1), ...: halves, as in Qwen3.
    Halves,
}

/// Where queries and keys lie in a row of fused projections.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Heads {
    pub(crate) queries: usize,
    pub(crate) keys: usize,
    pub(crate) dim: usize,
}

impl Heads {
    /// Queries, keys and values of one token.
    pub(crate) fn row(self) -> usize {
        (self.queries + 2 * self.keys) * self.dim
    }
}

/// Norms and rotates queries and keys; values pass through.
#[expect(
    clippy::too_many_arguments,
    reason = "one slice for each input; the public type bundles them"
)]
pub(crate) fn qk_norm_rope(
    qkv: &[f32],
    heads: Heads,
    q_weight: &[f32],
    k_weight: &[f32],
    cos: &[f32],
    sin: &[f32],
    pairing: Pairing,
    eps: f32,
    out: &mut [f32],
) {
    let (dim, half, width) = (heads.dim, heads.dim / 2, heads.row());
    for_row_blocks(
        out,
        width,
        #[inline(always)]
        |first, rows| {
            for (i, out) in rows.chunks_exact_mut(width).enumerate() {
                let row = first + i;
                let x = &qkv[row * width..][..width];
                let (cos, sin) = (&cos[row * half..][..half], &sin[row * half..][..half]);
                let rotated = heads.queries + heads.keys;
                for head in 0..rotated {
                    let weight = if head < heads.queries { q_weight } else { k_weight };
                    let x = &x[head * dim..][..dim];
                    let out = &mut out[head * dim..][..dim];
                    let inverse = inverse_rms(x, eps);
                    match pairing {
                        Pairing::Interleaved => {
                            let pairs = out.as_chunks_mut::<2>().0.iter_mut();
                            let x = x.as_chunks::<2>().0.iter().zip(weight.as_chunks::<2>().0);
                            for (((o, (x, w)), &c), &s) in pairs.zip(x).zip(cos).zip(sin) {
                                let (a, b) = (x[0] * inverse * w[0], x[1] * inverse * w[1]);
                                *o = [a * c - b * s, a * s + b * c];
                            }
                        }
                        Pairing::Halves => {
                            let (lo, hi) = out.split_at_mut(half);
                            let (x_lo, x_hi) = x.split_at(half);
                            let (w_lo, w_hi) = weight.split_at(half);
                            for j in 0..half {
                                let (a, b) =
                                    (x_lo[j] * inverse * w_lo[j], x_hi[j] * inverse * w_hi[j]);
                                lo[j] = a * cos[j] - b * sin[j];
                                hi[j] = b * cos[j] + a * sin[j];
                            }
                        }
                    }
                }
                out[rotated * dim..].copy_from_slice(&x[rotated * dim..]);
            }
        },
    );
}

#[inline(always)]
fn inverse_rms(x: &[f32], eps: f32) -> f32 {
    1.0 / (math::sum_by(x, |v| v * v) / x.len() as f32 + eps).sqrt()
}
