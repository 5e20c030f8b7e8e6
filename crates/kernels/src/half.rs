//! Products of f32 activations with f16 weights, for GPUs whose tensor cores have no bf16.
//!
//! Activations of these models exceed f16's range: inputs of the feed-forward layers' second product
//! reach 6.6e4, and f16 ends at 65504. So activations stay f32, are divided by [`RANGE`] where they
//! are rounded to f16 for a product, and the product's sums and results are f32.

use candle_core::{DType, Result, Tensor};

use crate::accelerated;

/// What an activation is divided by before it is rounded. A power of two, so that nothing but the
/// range changes: values up to 4.2e6 fit, and those above 4e-3 keep all of f16's 11 bits.
const RANGE: f32 = 64.0;

/// `x weight^T`: `(rows, in)` in f32 and `(out, in)` in f16 to `(rows, out)` in f32.
pub(crate) fn product(x: &Tensor, weight: &Tensor) -> Result<Tensor> {
    let Some(kernels) = accelerated::half_on(x.device())? else {
        let narrow = (x / f64::from(RANGE))?.to_dtype(DType::F16)?;
        return narrow.matmul(&weight.t()?)?.to_dtype(DType::F32)? * f64::from(RANGE);
    };
    let narrow = kernels.narrow(x, 1.0 / RANGE)?.unsqueeze(0)?;
    kernels.product(&narrow, &weight.unsqueeze(0)?, RANGE)?.squeeze(0)
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    #[test]
    fn activations_beyond_the_range_of_f16_are_multiplied() -> Result<()> {
        let values = |count: usize, scale: f32| {
            let value = move |i: usize| ((i * 37 % 101) as f32 / 50.0 - 1.0) * scale;
            Tensor::from_vec((0..count).map(value).collect::<Vec<_>>(), count, &Device::Cpu)
        };
        let weight = values(9 * 32, 0.1)?.reshape((9, 32))?.to_dtype(DType::F16)?;
        for scale in [1e-1, 1.0, 7e5] {
            let x = values(5 * 32, scale)?.reshape((5, 32))?;
            let exact = x.matmul(&weight.to_dtype(DType::F32)?.t()?)?;
            let error = (product(&x, &weight)? - &exact)?.sqr()?.sum_all()?.to_scalar::<f32>()?;
            let size = exact.sqr()?.sum_all()?.to_scalar::<f32>()?;
            let relative = (error / size).sqrt();
            assert!(relative < 1e-3, "at {scale}: {relative}");
        }
        Ok(())
    }
}
