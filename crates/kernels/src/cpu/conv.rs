//! Convolution without im2col.
//!
//! In a zero-bordered row of pixels, the window of a 3x3 kernel's row is `3 * c_in` adjacent values,
//! and the next window starts `c_in` later. So a row of windows is a matrix whose rows overlap, and
//! the convolution is three matrix products, one for each row of the kernel, that accumulate. A
//! strip of a few rows is bordered, normed, activated and enlarged on the way into a scratch
//! buffer that fits in the second-level cache. Windows that straddle two rows are computed as well
//! and dropped: two in a row of pixels.

use rayon::prelude::*;

use super::{
    gemm::{MatMut, MatRef, multiply},
    math,
    simd::Simd,
};

/// Scratch a strip may take, in values: about half of a second-level cache.
const STRIP_VALUES: usize = 128 * 1024;

#[derive(Clone, Copy, Debug)]
pub(crate) struct ConvShape {
    /// Of the input.
    pub(crate) height: usize,
    pub(crate) width: usize,
    pub(crate) c_in: usize,
    pub(crate) c_out: usize,
    /// 1 or 3.
    pub(crate) kernel: usize,
    /// 1 or 2.
    pub(crate) stride: usize,
    pub(crate) upsample: bool,
}

/// A norm whose statistics are known: `x * factor + offset` for each picture and channel.
pub(crate) struct Affine {
    factor: Vec<f32>,
    offset: Vec<f32>,
}

impl ConvShape {
    pub(crate) fn out_size(self) -> (usize, usize) {
        let scale = |side: usize| side * if self.upsample { 2 } else { 1 } / self.stride;
        (scale(self.height), scale(self.width))
    }
}

/// `conv(silu(affine(x))) + bias + residual`, channels last.
pub(crate) fn conv2d(
    shape: ConvShape,
    x: &[f32],
    affine: Option<&Affine>,
    weight: &[f32],
    bias: &[f32],
    residual: Option<&[f32]>,
    out: &mut [f32],
) {
    let (out_height, out_width) = shape.out_size();
    let ConvShape { c_in, c_out, kernel, stride, .. } = shape;
    let border = kernel - 1;
    // Pixels of one bordered input row.
    let pitch = out_width * stride + border;
    let per_row = pitch * stride * c_in + pitch * c_out;
    // Both threads should get a strip even of a small picture.
    let rows = (STRIP_VALUES / per_row).clamp(1, out_height.div_ceil(2).max(1));
    let simd = Simd::new();
    let picture = out_height * out_width * c_out;
    let strips: Vec<(usize, usize, &mut [f32])> = out
        .chunks_mut(picture)
        .enumerate()
        .flat_map(|(n, picture)| {
            let strips = picture.chunks_mut(rows * out_width * c_out).enumerate();
            strips.map(move |(strip, out)| (n, strip * rows, out))
        })
        .collect();
    strips.into_par_iter().for_each_init(
        || (Vec::new(), Vec::new()),
        |(scratch, sums), (n, first, out)| {
            let rows = out.len() / (out_width * c_out);
            let in_rows = (rows - 1) * stride + kernel;
            scratch.resize(in_rows * pitch * c_in, 0.0);
            simd.run(
                #[inline(always)]
                || {
                    for (i, row) in scratch.chunks_exact_mut(pitch * c_in).enumerate() {
                        border_row(shape, x, affine, n, (first * stride + i) as isize, row);
                    }
                },
            );
            if stride == 1 {
                sums.resize(rows * pitch * c_out, 0.0);
                let windows = rows * pitch - border;
                product(sums, windows, shape, scratch, weight, 0, pitch);
            } else {
                sums.resize(rows * pitch * c_out, 0.0);
                for (i, sums) in sums.chunks_exact_mut(pitch * c_out).enumerate() {
                    product(sums, out_width, shape, scratch, weight, i * stride, pitch);
                }
            }
            let done = (n * out_height + first) * out_width * c_out;
            let residual = residual.map(|r| &r[done..done + out.len()]);
            simd.run(
                #[inline(always)]
                || finish(sums, pitch, out_width, bias, residual, out),
            );
        },
    );
}

/// Products of one row of windows with each row of the kernel, summed.
fn product(
    sums: &mut [f32],
    windows: usize,
    shape: ConvShape,
    scratch: &[f32],
    weight: &[f32],
    first_row: usize,
    pitch: usize,
) {
    let ConvShape { c_in, c_out, kernel, stride, .. } = shape;
    let depth = kernel * c_in;
    for ky in 0..kernel {
        multiply(
            MatMut::row_major(sums, windows, c_out, c_out),
            MatRef::row_major(
                &scratch[(first_row + ky) * pitch * c_in..],
                windows,
                depth,
                stride * c_in,
            ),
            MatRef::row_major(&weight[ky * depth * c_out..], depth, c_out, c_out),
            ky > 0,
        );
    }
}

/// One input row with its border, after norm, activation and enlargement.
#[inline(always)]
fn border_row(
    shape: ConvShape,
    x: &[f32],
    affine: Option<&Affine>,
    n: usize,
    row: isize,
    out: &mut [f32],
) {
    let ConvShape { height, width, c_in, kernel, stride, upsample, .. } = shape;
    // A stride of 2 has its border on the right and below only.
    let lead = if stride == 1 { (kernel - 1) / 2 } else { 0 };
    let scale = if upsample { 2 } else { 1 };
    let y = row - lead as isize;
    if y < 0 || y >= (height * scale) as isize {
        out.fill(0.0);
        return;
    }
    let source = &x[(n * height + y as usize / scale) * width * c_in..][..width * c_in];
    let (before, rest) = out.split_at_mut(lead * c_in);
    let (inside, after) = rest.split_at_mut(width * scale * c_in);
    before.fill(0.0);
    after.fill(0.0);
    match affine {
        Some(affine) => {
            let factor = &affine.factor[n * c_in..][..c_in];
            let offset = &affine.offset[n * c_in..][..c_in];
            for (out, pixel) in inside.chunks_exact_mut(scale * c_in).zip(source.chunks_exact(c_in))
            {
                for out in out.chunks_exact_mut(c_in) {
                    for (((o, &v), &f), &b) in out.iter_mut().zip(pixel).zip(factor).zip(offset) {
                        *o = math::silu(v.mul_add(f, b));
                    }
                }
            }
        }
        None if scale == 1 => inside.copy_from_slice(source),
        None => {
            for (out, pixel) in inside.chunks_exact_mut(scale * c_in).zip(source.chunks_exact(c_in))
            {
                for out in out.chunks_exact_mut(c_in) {
                    out.copy_from_slice(pixel);
                }
            }
        }
    }
}

/// Drops the windows between rows; adds bias and residual.
#[inline(always)]
fn finish(
    sums: &[f32],
    pitch: usize,
    out_width: usize,
    bias: &[f32],
    residual: Option<&[f32]>,
    out: &mut [f32],
) {
    let c_out = bias.len();
    let row = out_width * c_out;
    for (i, (out, sums)) in out.chunks_exact_mut(row).zip(sums.chunks(pitch * c_out)).enumerate() {
        for (out, sums) in out.chunks_exact_mut(c_out).zip(sums.chunks_exact(c_out)) {
            for ((o, &s), &b) in out.iter_mut().zip(sums).zip(bias) {
                *o = s + b;
            }
        }
        if let Some(residual) = residual {
            for (o, &r) in out.iter_mut().zip(&residual[i * row..]) {
                *o += r;
            }
        }
    }
}

/// Statistics of a group norm over each picture, folded with its weight and bias.
pub(crate) fn group_norm(
    x: &[f32],
    n: usize,
    groups: usize,
    weight: &[f32],
    bias: &[f32],
    eps: f64,
) -> Affine {
    let channels = weight.len();
    let picture = x.len() / n;
    let per_group = channels / groups;
    let mut affine = Affine { factor: vec![0.0; n * channels], offset: vec![0.0; n * channels] };
    for item in 0..n {
        let (sum, squares) = channel_sums(&x[item * picture..][..picture], channels);
        for group in 0..groups {
            let range = group * per_group..(group + 1) * per_group;
            let count = (picture / channels * per_group) as f64;
            let mean = sum[range.clone()].iter().sum::<f64>() / count;
            let variance = squares[range.clone()].iter().sum::<f64>() / count - mean * mean;
            let inverse = 1.0 / (variance.max(0.0) + eps).sqrt();
            for c in range {
                let factor = inverse * f64::from(weight[c]);
                affine.factor[item * channels + c] = factor as f32;
                affine.offset[item * channels + c] = (f64::from(bias[c]) - mean * factor) as f32;
            }
        }
    }
    affine
}

/// `x * factor + offset`.
pub(crate) fn apply(affine: &Affine, x: &[f32], channels: usize, out: &mut [f32]) {
    let pictures = affine.factor.len() / channels;
    let picture = x.len() / pictures;
    for (item, (out, x)) in out.chunks_exact_mut(picture).zip(x.chunks_exact(picture)).enumerate() {
        let factor = &affine.factor[item * channels..][..channels];
        let offset = &affine.offset[item * channels..][..channels];
        for (out, x) in out.chunks_exact_mut(channels).zip(x.chunks_exact(channels)) {
            for (((o, &v), &f), &b) in out.iter_mut().zip(x).zip(factor).zip(offset) {
                *o = v.mul_add(f, b);
            }
        }
    }
}

/// Sum and sum of squares of each channel. Partial sums of [`RUN`] pixels are f32, the rest f64.
fn channel_sums(x: &[f32], channels: usize) -> (Vec<f64>, Vec<f64>) {
    const RUN: usize = 64;
    const TASK: usize = 64 * RUN;
    let simd = Simd::new();
    // Collected in order and added one after the other, so that the result does not depend on
    // which thread was faster.
    let parts: Vec<(Vec<f64>, Vec<f64>)> = x
        .par_chunks(TASK * channels)
        .map(|part| {
            simd.run(
                #[inline(always)]
                || {
                    let (mut sum, mut squares) = (vec![0f64; channels], vec![0f64; channels]);
                    let (mut run_sum, mut run_squares) =
                        (vec![0f32; channels], vec![0f32; channels]);
                    for run in part.chunks(RUN * channels) {
                        run_sum.fill(0.0);
                        run_squares.fill(0.0);
                        for pixel in run.chunks_exact(channels) {
                            for ((s, q), &v) in run_sum.iter_mut().zip(&mut run_squares).zip(pixel)
                            {
                                *s += v;
                                *q += v * v;
                            }
                        }
                        for (total, &v) in sum.iter_mut().zip(&run_sum) {
                            *total += f64::from(v);
                        }
                        for (total, &v) in squares.iter_mut().zip(&run_squares) {
                            *total += f64::from(v);
                        }
                    }
                    (sum, squares)
                },
            )
        })
        .collect();
    let mut totals = (vec![0f64; channels], vec![0f64; channels]);
    for (sum, squares) in parts {
        for (total, v) in totals.0.iter_mut().zip(sum) {
            *total += v;
        }
        for (total, v) in totals.1.iter_mut().zip(squares) {
            *total += v;
        }
    }
    totals
}
