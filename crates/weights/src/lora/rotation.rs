//! OFT: blocks of rows or columns of a matrix that are rotated.
//!
//! A file holds skew-symmetric matrices `Q`; the rotation is their Cayley transform
//! `R = (I + Q) (I - Q)^-1`, or the first terms of its series. Computed in f64.

use candle_core::Tensor;

use super::{DEVICE, LoraError, adapter::AdapterConfig, extent::Extent, header::Header};
use crate::overlay::{Axis, Rotation};

/// The blocks of a module, by the file's keys.
#[derive(Clone, Debug)]
pub(super) enum Blocks {
    /// LyCORIS' Diag-OFT, `(blocks, side, side)`: `Q` is the matrix minus its transpose. Rows of the
    /// weight turn, and may be given other lengths (`rescale`) afterwards.
    Rows { key: String, blocks: usize, side: usize, constraint: f64, rescale: Option<String> },
    /// PEFT's, `(blocks, side (side - 1) / 2)`: the upper triangle of `Q`. Columns of the weight turn.
    /// One block may stand for all.
    Columns { key: String, blocks: usize, side: usize, series: Option<usize> },
}

impl Blocks {
    /// `constraint` is the file's alpha: what LyCORIS bounds the norm of all `Q` by, a row; 0: nothing.
    ///
    /// # Errors
    ///
    /// [`LoraError`] if the tensors have other shapes.
    pub fn of_rows(
        header: &Header,
        key: String,
        constraint: f64,
        rescale: Option<String>,
    ) -> Result<Self, LoraError> {
        let shape = &header.span(&key)?.shape;
        let [blocks, side, other] = shape[..] else {
            // A fourth axis is BOFT's factors.
            let kind = "an OFT whose blocks have other than three axes";
            return Err(LoraError::Kind { file: header.label().into(), key, kind });
        };
        let Some(outs) = blocks.checked_mul(side).filter(|&outs| side == other && outs > 0) else {
            let why = format!("'{key}' has shape {shape:?}, but must be (blocks, side, side)");
            return Err(header.invalid(why));
        };
        if let Some(key) = &rescale {
            let shape = &header.span(key)?.shape;
            if shape.iter().product::<usize>() != outs {
                let why = format!("'{key}' has shape {shape:?}, but must have {outs} values");
                return Err(header.invalid(why));
            }
        }
        let constraint = constraint * outs as f64;
        Ok(Self::Rows { key, blocks, side, constraint, rescale })
    }

    /// # Errors
    ///
    /// [`LoraError`] if the tensor has another shape.
    pub fn of_columns(
        header: &Header,
        config: &AdapterConfig,
        key: String,
    ) -> Result<Self, LoraError> {
        let shape = &header.span(&key)?.shape;
        let side = match shape[..] {
            // side (side - 1) / 2 = values
            [blocks, values] if blocks > 0 && values > 0 => {
                let side = values.checked_mul(8).map_or(0, |most| (most + 1).isqrt().div_ceil(2));
                (side.checked_mul(side.saturating_sub(1)) == Some(2 * values)).then_some(side)
            }
            _ => None,
        };
        let Some(side) = side else {
            let why =
                format!("'{key}' has shape {shape:?}, but must be (blocks, side * (side - 1) / 2)");
            return Err(header.invalid(why));
        };
        Ok(Self::Columns { blocks: shape[0], side, series: config.cayley_terms(), key })
    }

    /// Which matrices have rows or columns for all blocks.
    pub fn extent(&self) -> Extent {
        match self {
            Self::Rows { blocks, side, .. } => Extent::Rows(blocks * side),
            Self::Columns { blocks: 1, side, .. } => Extent::ColumnsBy(*side),
            Self::Columns { blocks, side, .. } => Extent::Columns(blocks * side),
        }
    }

    /// The file's own key of the blocks.
    pub fn key(&self) -> &str {
        match self {
            Self::Rows { key, .. } | Self::Columns { key, .. } => key,
        }
    }

    /// Reads the blocks and computes the rotation.
    ///
    /// # Errors
    ///
    /// [`LoraError`] if the file cannot be read or a value is not finite.
    pub fn read(&self, header: &Header) -> Result<Rotation, LoraError> {
        let values = |key: &str| -> Result<Vec<f64>, LoraError> {
            let tensor = header.finite(key)?;
            let flat = tensor.to_dtype(candle_core::DType::F64).and_then(|x| x.flatten_all());
            flat.and_then(|x| x.to_vec1()).map_err(LoraError::backend)
        };
        let (axis, side, turned, lengths) = match self {
            Self::Rows { key, side, constraint, rescale, .. } => {
                let mut all = values(key)?;
                for block in all.chunks_exact_mut(side * side) {
                    subtract_transpose(block, *side);
                }
                let norm = all.iter().map(|x| x * x).sum::<f64>().sqrt() + 1e-8;
                if *constraint > 0.0 && norm > *constraint {
                    all.iter_mut().for_each(|x| *x *= constraint / norm);
                }
                let lengths = rescale.as_deref().map(values).transpose()?;
                // LyCORIS multiplies with the transpose: it sums over the first index of a block.
                let turned =
                    all.chunks_exact(side * side).flat_map(|q| cayley_transposed(q, *side));
                (Axis::Rows, *side, turned.collect::<Vec<f64>>(), lengths)
            }
            Self::Columns { key, side, series, .. } => {
                let all = values(key)?;
                let turned = all.chunks_exact(side * (side - 1) / 2).flat_map(|triangle| {
                    let q = from_triangle(triangle, *side);
                    match series {
                        Some(terms) => cayley_series(&q, *side, *terms),
                        // PEFT's exact form turns the other way than its series.
                        None => cayley_transposed(&q, *side),
                    }
                });
                (Axis::Columns, *side, turned.collect(), None)
            }
        };
        let narrow = |values: Vec<f64>| values.into_iter().map(|x| x as f32).collect::<Vec<f32>>();
        let blocks = turned.len() / (side * side);
        let turn = Tensor::from_vec(narrow(turned), (blocks, side, side), &DEVICE);
        let lengths = lengths.map(|values| {
            let outs = values.len();
            Tensor::from_vec(narrow(values), (outs, 1), &DEVICE)
        });
        Ok(Rotation {
            axis,
            turn: turn.map_err(LoraError::backend)?,
            lengths: lengths.transpose().map_err(LoraError::backend)?,
        })
    }
}

/// `q - q^T`.
fn subtract_transpose(q: &mut [f64], side: usize) {
    for row in 0..side {
        for column in 0..=row {
            let difference = q[row * side + column] - q[column * side + row];
            q[row * side + column] = difference;
            q[column * side + row] = -difference;
        }
    }
}

/// The skew-symmetric matrix with these values above its diagonal, row by row.
fn from_triangle(triangle: &[f64], side: usize) -> Vec<f64> {
    let mut q = vec![0.0; side * side];
    let mut values = triangle.iter();
    for row in 0..side {
        for (column, &value) in (row + 1..side).zip(&mut values) {
            q[row * side + column] = value;
            q[column * side + row] = -value;
        }
    }
    q
}

/// `R^T - I`: since `Q` is skew-symmetric, the solution `X` of `(I + Q) X = -2 Q`.
///
/// The symmetric part of `I + Q` is `I`, so elimination needs no pivots: all of them are 1 or more.
fn cayley_transposed(q: &[f64], side: usize) -> Vec<f64> {
    let mut left: Vec<f64> = q.to_vec();
    (0..side).for_each(|i| left[i * side + i] += 1.0);
    let mut right: Vec<f64> = q.iter().map(|x| -2.0 * x).collect();
    for pivot in 0..side {
        let own_left = left[pivot * side..][..side].to_vec();
        let own_right = right[pivot * side..][..side].to_vec();
        for row in (0..side).filter(|&row| row != pivot) {
            let factor = left[row * side + pivot] / own_left[pivot];
            subtract(&mut left[row * side..][..side], &own_left, factor);
            subtract(&mut right[row * side..][..side], &own_right, factor);
        }
    }
    for row in 0..side {
        let by = left[row * side + row];
        right[row * side..][..side].iter_mut().for_each(|x| *x /= by);
    }
    right
}

fn subtract(row: &mut [f64], other: &[f64], factor: f64) {
    if factor != 0.0 {
        row.iter_mut().zip(other).for_each(|(x, other)| *x -= factor * other);
    }
}

/// `R - I` as PEFT computes it by default (`use_cayley_neumann`): `2 Q + 2 Q^2 + ... + Q^last`.
fn cayley_series(q: &[f64], side: usize, terms: usize) -> Vec<f64> {
    if terms <= 1 {
        return vec![0.0; side * side];
    }
    let mut sum: Vec<f64> = q.iter().map(|x| 2.0 * x).collect();
    if terms == 2 {
        return sum;
    }
    // PEFT's loop takes as many powers for 3 terms as for 4.
    let last = (terms - 1).max(3);
    let mut power = q.to_vec();
    for exponent in 2..=last {
        power = product(&power, q, side);
        let factor = if exponent == last { 1.0 } else { 2.0 };
        sum.iter_mut().zip(&power).for_each(|(sum, x)| *sum += factor * x);
    }
    sum
}

fn product(left: &[f64], right: &[f64], side: usize) -> Vec<f64> {
    let mut out = vec![0.0; side * side];
    for (row, out) in left.chunks_exact(side).zip(out.chunks_exact_mut(side)) {
        for (&x, right) in row.iter().zip(right.chunks_exact(side)) {
            subtract(out, right, -x);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn transpose(q: &mut [f64], side: usize) {
        for row in 0..side {
            for column in 0..row {
                q.swap(row * side + column, column * side + row);
            }
        }
    }

    /// `R - I`.
    fn cayley(q: &[f64], side: usize) -> Vec<f64> {
        let mut turned = cayley_transposed(q, side);
        transpose(&mut turned, side);
        turned
    }

    #[test]
    fn a_rotation_keeps_lengths_and_angles() {
        let side = 5;
        let triangle: Vec<f64> = (0..10).map(|i| f64::from(i) * 0.3 - 1.1).collect();
        let mut turned = cayley(&from_triangle(&triangle, side), side);
        (0..side).for_each(|i| turned[i * side + i] += 1.0);
        let mut other = turned.clone();
        transpose(&mut other, side);
        for (at, value) in product(&turned, &other, side).into_iter().enumerate() {
            let expected = if at / side == at % side { 1.0 } else { 0.0 };
            assert!((value - expected).abs() < 1e-12, "{at}: {value}");
        }
    }

    #[test]
    fn the_series_comes_near_to_it() {
        let side = 4;
        let q = from_triangle(&[0.01, -0.02, 0.03, 0.01, 0.02, -0.01], side);
        let (whole, series) = (cayley(&q, side), cayley_series(&q, side, 5));
        let apart = whole.iter().zip(&series).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
        assert!(apart > 0.0 && apart < 1e-5, "{apart}");
        assert!(cayley_series(&q, side, 1).iter().all(|&x| x == 0.0));
    }
}
