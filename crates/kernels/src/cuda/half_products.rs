//! Products of f16 values with f32 results, on the tensor cores of Turing too.

use candle_core::{DType, Result, Tensor, bail, cuda_backend::cudarc};
use half::f16;

use super::{
    HalfGpu,
    blas::{Gemm, Operand, Type},
    source::Source,
    tensor::{address, blocks, launch},
};
use crate::accelerated::HalfKernels;

const THREADS: u32 = 256;
/// What a thread rounds.
const VALUES: usize = 4;

impl HalfKernels for HalfGpu {
    fn narrow(&self, x: &Tensor, factor: f32) -> Result<Tensor> {
        let Self(gpu) = self;
        let x = gpu.dense::<f32>(x)?;
        let count = x.elem_count();
        let out = gpu.empty::<f16>(x.dims())?;
        if count > 0 {
            launch!(
                gpu,
                gpu.function(Source::Half, "narrow")?,
                blocks((count.div_ceil(VALUES * THREADS as usize), 1, 1), THREADS, 0)?,
                address::<f32>(&x)?,
                address::<f16>(&out)?,
                count as u64,
                factor,
            )?;
        }
        Ok(out)
    }

    fn product(&self, a: &Tensor, b: &Tensor, factor: f32) -> Result<Tensor> {
        let Self(gpu) = self;
        let ((batch, rows, depth), (batches, columns, b_depth)) = (a.dims3()?, b.dims3()?);
        if (batch, depth) != (batches, b_depth) || depth == 0 {
            bail!("a product of {:?} and {:?}", a.dims(), b.dims());
        }
        let (a, b) = (gpu.dense::<f16>(a)?, gpu.dense::<f16>(b)?);
        debug_assert_eq!((a.dtype(), b.dtype()), (DType::F16, DType::F16));
        let out = gpu.empty::<f32>(&[batch, rows, columns])?;
        if out.elem_count() == 0 {
            return Ok(out);
        }
        let operand = |address, dtype, leading, stride| Operand { address, dtype, leading, stride };
        gpu.gemm(
            Gemm { m: columns, n: rows, k: depth, transpose_a: true, factor, batch },
            operand(address::<f16>(&b)?, Type::F16, depth, columns * depth),
            operand(address::<f16>(&a)?, Type::F16, depth, rows * depth),
            operand(address::<f32>(&out)?, Type::F32, columns, rows * columns),
        )?;
        Ok(out)
    }
}
