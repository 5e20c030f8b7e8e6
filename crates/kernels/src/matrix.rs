//! A weight in the form in which it lies in memory.
//!
//! A closed set of forms and one match for each question, all in this file: a form of quantized
//! weights is a variant here, and layers and models do not change.

use std::ops::Range;

use candle_core::{DType, Device, Result, Tensor};

use crate::product;

/// The matrix of a linear layer or of an embedding table, `(out, in)`.
#[derive(Clone, Debug)]
pub enum Matrix {
    /// Values as they are computed with, on the device that computes.
    Dense(Tensor),
}

impl Matrix {
    /// `x W^T`: `(rows, in)` to `(rows, out)`, both in [`Self::compute_dtype`] on the matrix's device.
    ///
    /// # Errors
    ///
    /// Where `x` is of another width, type or device.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.product(x, None)
    }

    /// [`Self::forward`] plus `bias`, `(out)`.
    pub(crate) fn product(&self, x: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
        let (outs, _) = self.dims()?;
        product::linear(x, &self.dequantize(0..outs)?, bias)
    }

    /// The rows with these indices, `(ids)` of type u32, as an embedding table is read: `(ids, in)` in
    /// [`Self::compute_dtype`].
    ///
    /// # Errors
    ///
    /// Where an index is past the last row.
    pub fn select_rows(&self, ids: &Tensor) -> Result<Tensor> {
        match self {
            Self::Dense(values) => values.index_select(ids, 0),
        }
    }

    /// These rows as values, `(rows, in)` in [`Self::compute_dtype`]. Of a dense matrix it is a view.
    ///
    /// # Errors
    ///
    /// Where there are fewer rows.
    pub fn dequantize(&self, rows: Range<usize>) -> Result<Tensor> {
        match self {
            Self::Dense(values) => values.narrow(0, rows.start, rows.len()),
        }
    }

    /// The first half of the rows and the second in turns of `turn` rows each. The number of rows is a
    /// multiple of `2 * turn`.
    pub(crate) fn in_turns(&self, turn: usize) -> Result<Self> {
        let (both, ins) = self.dims()?;
        match self {
            Self::Dense(values) => {
                let turns = values.reshape((2, both / 2 / turn, turn, ins))?.transpose(0, 1)?;
                turns.contiguous()?.reshape((both, ins)).map(Self::Dense)
            }
        }
    }

    /// `(out, in)`.
    ///
    /// # Errors
    ///
    /// Where a dense tensor is no matrix.
    pub fn dims(&self) -> Result<(usize, usize)> {
        match self {
            Self::Dense(values) => values.dims2(),
        }
    }

    /// What [`Self::forward`] takes and gives.
    pub fn compute_dtype(&self) -> DType {
        match self {
            Self::Dense(values) => values.dtype(),
        }
    }

    /// Where it lies and computes.
    pub fn device(&self) -> &Device {
        match self {
            Self::Dense(values) => values.device(),
        }
    }
}

impl From<Tensor> for Matrix {
    fn from(values: Tensor) -> Self {
        Self::Dense(values)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matrix(rows: usize, columns: usize) -> Result<Matrix> {
        let values: Vec<f32> = (0..rows * columns).map(|i| i as f32).collect();
        Tensor::from_vec(values, (rows, columns), &Device::Cpu).map(Matrix::from)
    }

    fn firsts(values: &Tensor) -> Result<Vec<f32>> {
        values.narrow(1, 0, 1)?.flatten_all()?.to_vec1()
    }

    #[test]
    fn rows_are_read_by_range_and_by_index() -> Result<()> {
        let matrix = matrix(4, 2)?;
        assert_eq!((matrix.dims()?, matrix.compute_dtype()), ((4, 2), DType::F32));
        assert_eq!(firsts(&matrix.dequantize(1..3)?)?, [2.0, 4.0]);
        assert!(matrix.dequantize(3..5).is_err());
        let ids = Tensor::new(&[3u32, 0, 3], &Device::Cpu)?;
        assert_eq!(firsts(&matrix.select_rows(&ids)?)?, [6.0, 0.0, 6.0]);
        Ok(())
    }

    #[test]
    fn gates_and_ups_take_turns() -> Result<()> {
        let Matrix::Dense(turned) = matrix(8, 3)?.in_turns(2)?;
        assert_eq!(firsts(&turned)?, [0, 1, 4, 5, 2, 3, 6, 7].map(|row| 3.0 * row as f32));
        Ok(())
    }
}
