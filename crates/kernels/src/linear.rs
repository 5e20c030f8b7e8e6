//! Matrix products with a weight.

use candle_core::{Result, Tensor};

use crate::{
    cpu::gemm::{MatMut, MatRef, multiply_parallel},
    host::{self, Host},
};

/// `x W^T + b`, as `torch.nn.Linear`.
#[derive(Clone, Debug)]
pub struct Linear {
    /// `(out, in)`.
    weight: Tensor,
    /// `(out)`.
    bias: Option<Tensor>,
}

impl Linear {
    pub fn new(weight: Tensor, bias: Option<Tensor>) -> Self {
        Self { weight, bias }
    }

    /// `(rows, in)` to `(rows, out)`.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        #[cfg(feature = "cuda")]
        if let Some(gpu) = crate::cuda::Gpu::of(x)?
            && let Some(out) = gpu.matmul(x, &self.weight, self.bias.as_ref(), false)?
        {
            return Ok(out);
        }
        let product =
            if host::is_cpu(x) { self.product_cpu(x)? } else { x.matmul(&self.weight.t()?)? };
        match &self.bias {
            Some(bias) => product.broadcast_add(bias),
            None => Ok(product),
        }
    }

    fn product_cpu(&self, x: &Tensor) -> Result<Tensor> {
        let ((rows, width), (outs, ins)) = (x.dims2()?, self.weight.dims2()?);
        if width != ins {
            candle_core::bail!("input of width {width} for a weight of {outs} x {ins}");
        }
        let mut out = vec![0f32; rows * outs];
        multiply_parallel(
            MatMut::row_major(&mut out, rows, outs, outs),
            MatRef::row_major(&Host::new(x)?.values()?, rows, ins, ins),
            MatRef::transposed(&Host::new(&self.weight)?.values()?, ins, outs, ins),
        );
        host::output(out, &[rows, outs], x.dtype())
    }
}
