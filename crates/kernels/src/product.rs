//! Matrix products with a weight that is expanded.

use candle_core::{DType, Result, Tensor};

use crate::{
    accelerated,
    cpu::gemm::{MatMut, MatRef, multiply_parallel},
    half,
    host::{self, Host},
};

/// `x weight^T + bias`: `(rows, in)`, `(out, in)` and `(out)` to `(rows, out)`, in the type of `x`. The
/// weight has that type too, or is f16 where the others are f32.
pub(crate) fn linear(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
    let ((_, width), (outs, ins)) = (x.dims2()?, weight.dims2()?);
    if width != ins {
        candle_core::bail!("input of width {width} for a weight of {outs} x {ins}");
    }
    if let Some(kernels) = accelerated::of(x)?
        && let Some(out) = kernels.linear(x, weight, bias)?
    {
        return Ok(out);
    }
    let product = if host::is_cpu(x) {
        on_cpu(x, weight)?
    } else if (x.dtype(), weight.dtype()) == (DType::F32, DType::F16) {
        half::product(x, weight)?
    } else {
        x.matmul(&weight.t()?)?
    };
    match bias {
        Some(bias) => product.broadcast_add(bias),
        None => Ok(product),
    }
}

fn on_cpu(x: &Tensor, weight: &Tensor) -> Result<Tensor> {
    let ((rows, _), (outs, ins)) = (x.dims2()?, weight.dims2()?);
    let mut out = vec![0f32; rows * outs];
    multiply_parallel(
        MatMut::row_major(&mut out, rows, outs, outs),
        MatRef::row_major(&Host::new(x)?.values()?, rows, ins, ins),
        MatRef::transposed(&Host::new(weight)?.values()?, ins, outs, ins),
    );
    host::output(out, &[rows, outs], x.dtype())
}
