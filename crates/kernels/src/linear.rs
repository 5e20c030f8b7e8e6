//! Linear layers.

use candle_core::{Result, Tensor};

use crate::Matrix;

/// `x W^T + b`, as `torch.nn.Linear`.
#[derive(Clone, Debug)]
pub struct Linear {
    /// `(out, in)`.
    weight: Matrix,
    /// `(out)`.
    bias: Option<Tensor>,
}

impl Linear {
    /// `weight`: `(out, in)`; `bias`: `(out)`, in the activations' type and on the weight's device.
    pub fn new(weight: impl Into<Matrix>, bias: Option<Tensor>) -> Self {
        Self { weight: weight.into(), bias }
    }

    /// The same without what is [added beside](Matrix::Sided) the weight, in the same memory.
    #[must_use]
    pub fn without_side(&self) -> Self {
        Self { weight: self.weight.without_side(), bias: self.bias.clone() }
    }

    /// `(rows, in)` to `(rows, out)`, on the weight's device in its type, or in f32 where that is f16. On
    /// the CPU other types than f32 are widened, and the result is rounded once.
    ///
    /// # Errors
    ///
    /// Where `x` is of another width, type or device.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.weight.product(x, self.bias.as_ref())
    }
}
