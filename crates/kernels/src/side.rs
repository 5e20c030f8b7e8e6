//! What is added to the products of a matrix that is left as it is.

use candle_core::{Result, Tensor};

use crate::product;

/// `x down^T up^T`, to be added to a product: a LoRA beside its matrix.
#[derive(Clone, Debug)]
pub struct SideBranch {
    /// `(rank, in)`.
    pub down: Tensor,
    /// `(out, rank)`, with the scale in it.
    pub up: Tensor,
}

impl SideBranch {
    /// `product`, `(rows, out)`, with what is added for `x`, `(rows, in)`.
    pub(crate) fn add(&self, product: Tensor, x: &Tensor) -> Result<Tensor> {
        product + product::linear(&product::linear(x, &self.down, None)?, &self.up, None)?
    }

    /// What is added to some rows of the matrix; `up` has theirs of [`Self::up`].
    pub(crate) fn values(&self, up: &Tensor) -> Result<Tensor> {
        product::linear(up, &self.down.t()?.contiguous()?, None)
    }
}
