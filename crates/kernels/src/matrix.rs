//! A weight in the form in which it lies in memory.
//!
//! A closed set of forms and one match for each question, all in this file: a form of quantized
//! weights is a variant here, and layers and models do not change.

use std::{fmt, ops::Range, sync::Arc};

use candle_core::{DType, Device, Result, Tensor, bail};

use crate::{Packed, SideBranch, product};

/// Rows of a matrix that are read one by one from where they are stored, as an embedding table is.
pub trait StoredRows: fmt::Debug + Send + Sync {
    /// `(rows, columns)`.
    fn dims(&self) -> (usize, usize);

    /// These rows, one after the other.
    ///
    /// # Errors
    ///
    /// Where there is no such row, or it cannot be read.
    fn read(&self, rows: &[usize]) -> Result<Vec<f32>>;
}

/// The matrix of a linear layer or of an embedding table, `(out, in)`.
#[derive(Clone, Debug)]
pub enum Matrix {
    /// Values as they are computed with, on the device that computes.
    Dense(Tensor),
    /// Packed on the device that computes, and expanded for each product.
    Packed(Packed),
    /// On the host, read row by row when it is asked for.
    Stored { rows: Arc<dyn StoredRows>, dtype: DType, device: Device },
    /// Another one, and what is added to its products, so that it can be had without that too.
    Sided { base: Box<Self>, side: SideBranch },
}

impl Matrix {
    /// The same with this added to its products.
    #[must_use]
    pub fn with_side(self, side: Option<SideBranch>) -> Self {
        match side {
            Some(side) => Self::Sided { base: Box::new(self), side },
            None => self,
        }
    }

    /// The same with nothing added to its products, in the same memory.
    #[must_use]
    pub(crate) fn without_side(&self) -> Self {
        match self {
            Self::Sided { base, .. } => base.without_side(),
            Self::Dense(_) | Self::Packed(_) | Self::Stored { .. } => self.clone(),
        }
    }

    /// `x W^T`: `(rows, in)` to `(rows, out)`, both on the matrix's device in [`Self::dtype`], or in f32
    /// where that is f16.
    ///
    /// # Errors
    ///
    /// Where `x` is of another width, type or device.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.product(x, None)
    }

    /// [`Self::forward`] plus `bias`, `(out)`.
    pub(crate) fn product(&self, x: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
        match self {
            Self::Dense(values) => product::linear(x, values, bias),
            Self::Packed(packed) => packed.product(x, bias),
            Self::Stored { rows, .. } => {
                product::linear(x, &self.dequantize(0..rows.dims().0)?, bias)
            }
            Self::Sided { base, side } => side.add(base.product(x, bias)?, x),
        }
    }

    /// The rows with these indices, `(ids)` of type u32, as an embedding table is read: `(ids, in)` in
    /// [`Self::dtype`].
    ///
    /// # Errors
    ///
    /// Where an index is past the last row.
    pub fn select_rows(&self, ids: &Tensor) -> Result<Tensor> {
        match self {
            Self::Dense(values) => values.index_select(ids, 0),
            Self::Packed(packed) => packed.dequantize()?.index_select(ids, 0),
            Self::Stored { .. } => {
                let ids: Vec<u32> = ids.to_vec1()?;
                self.stored_rows(&ids.into_iter().map(|id| id as usize).collect::<Vec<_>>())
            }
            Self::Sided { base, side } => {
                let side = side.values(&side.up.index_select(ids, 0)?)?;
                base.select_rows(ids)?.to_dtype(side.dtype())? + side
            }
        }
    }

    /// Rows of a matrix that is stored.
    fn stored_rows(&self, ids: &[usize]) -> Result<Tensor> {
        let Self::Stored { rows, dtype, device } = self else { bail!("the matrix is loaded") };
        let values = Tensor::from_vec(rows.read(ids)?, (ids.len(), rows.dims().1), &Device::Cpu)?;
        values.to_dtype(*dtype)?.to_device(device)
    }

    /// These rows as values, `(rows, in)` in [`Self::dtype`]. Of a dense matrix it is a view; of
    /// one with something added to its products, the sum.
    ///
    /// # Errors
    ///
    /// Where there are fewer rows.
    pub fn dequantize(&self, rows: Range<usize>) -> Result<Tensor> {
        match self {
            Self::Dense(values) => values.narrow(0, rows.start, rows.len()),
            Self::Packed(packed) => packed.dequantize()?.narrow(0, rows.start, rows.len()),
            Self::Stored { .. } => self.stored_rows(&rows.collect::<Vec<_>>()),
            Self::Sided { base, side } => {
                let up = side.up.narrow(0, rows.start, rows.len())?;
                let side = side.values(&up)?;
                base.dequantize(rows)?.to_dtype(side.dtype())? + side
            }
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
            Self::Packed(packed) => Ok(Self::Packed(packed.in_turns(turn))),
            Self::Stored { .. } | Self::Sided { .. } => {
                Self::Dense(self.dequantize(0..both)?).in_turns(turn)
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
            Self::Packed(packed) => Ok(packed.dims()),
            Self::Stored { rows, .. } => Ok(rows.dims()),
            Self::Sided { base, .. } => base.dims(),
        }
    }

    /// The type of its values when they are multiplied.
    pub fn dtype(&self) -> DType {
        match self {
            Self::Dense(values) => values.dtype(),
            Self::Packed(packed) => packed.dtype(),
            Self::Stored { dtype, .. } => *dtype,
            Self::Sided { base, .. } => base.dtype(),
        }
    }

    /// Where it lies and computes.
    pub fn device(&self) -> &Device {
        match self {
            Self::Dense(values) => values.device(),
            Self::Packed(packed) => packed.device(),
            Self::Stored { device, .. } => device,
            Self::Sided { base, .. } => base.device(),
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
        assert_eq!((matrix.dims()?, matrix.dtype()), ((4, 2), DType::F32));
        assert_eq!(firsts(&matrix.dequantize(1..3)?)?, [2.0, 4.0]);
        assert!(matrix.dequantize(3..5).is_err());
        let ids = Tensor::new(&[3u32, 0, 3], &Device::Cpu)?;
        assert_eq!(firsts(&matrix.select_rows(&ids)?)?, [6.0, 0.0, 6.0]);
        Ok(())
    }

    #[test]
    fn what_is_added_beside_is_in_products_and_rows_and_can_be_left_out() -> Result<()> {
        let values = |x: &Tensor| x.flatten_all()?.to_vec1::<f32>();
        let plain = matrix(4, 2)?;
        let up = Tensor::new(&[[1f32], [0.0], [-1.0], [2.0]], &Device::Cpu)?;
        let down = Tensor::new(&[[0.5f32, 4.0]], &Device::Cpu)?;
        let sided = plain.clone().with_side(Some(SideBranch { down, up }));
        let sum = [0.5, 5.0, 2.0, 3.0, 3.5, 1.0, 7.0, 15.0];
        assert_eq!(values(&sided.dequantize(0..4)?)?, sum);
        assert_eq!(values(&sided.dequantize(2..3)?)?, sum[4..6]);
        let ids = Tensor::new(&[3u32, 1], &Device::Cpu)?;
        assert_eq!(values(&sided.select_rows(&ids)?)?, [7.0, 15.0, 2.0, 3.0]);
        assert_eq!(values(&sided.in_turns(1)?.dequantize(0..4)?)?[2..4], sum[4..6]);

        let x = Tensor::new(&[[1f32, 2.0], [-1.0, 0.5]], &Device::Cpu)?;
        let whole = Matrix::from(sided.dequantize(0..4)?).forward(&x)?;
        assert_eq!(values(&sided.forward(&x)?)?, values(&whole)?);
        assert_eq!(values(&sided.without_side().forward(&x)?)?, values(&plain.forward(&x)?)?);
        match (&plain, sided.without_side()) {
            (Matrix::Dense(ours), Matrix::Dense(theirs)) => assert_eq!(ours.id(), theirs.id()),
            _ => unreachable!("both are dense"),
        }
        let (bias, gates) = (Tensor::ones(4, DType::F32, &Device::Cpu)?, |weight: &Matrix| {
            crate::GatedLinear::new(weight.clone())
        });
        let linear = |weight: &Matrix| crate::Linear::new(weight.clone(), Some(bias.clone()));
        let bare = linear(&sided).without_side().forward(&x)?;
        assert_eq!(values(&bare)?, values(&linear(&plain).forward(&x)?)?);
        let bare = gates(&sided)?.without_side()?.forward(&x)?;
        assert_eq!(values(&bare)?, values(&gates(&plain)?.forward(&x)?)?);
        let whole = gates(&Matrix::from(sided.dequantize(0..4)?))?.forward(&x)?;
        assert_eq!(values(&gates(&sided)?.forward(&x)?)?, values(&whole)?);
        Ok(())
    }

    #[test]
    fn gates_and_ups_take_turns() -> Result<()> {
        let turned = matrix(8, 3)?.in_turns(2)?.dequantize(0..8)?;
        assert_eq!(firsts(&turned)?, [0, 1, 4, 5, 2, 3, 6, 7].map(|row| 3.0 * row as f32));
        Ok(())
    }
}
