//! Reads stored bytes as values on the host and converts them on the way: no value is in memory
//! twice.

use candle_core::{Device, Tensor, WithDType, safetensors::Load as _};
use half::{bf16, f16};
use rayon::prelude::*;
use safetensors::{Dtype, tensor::TensorView};

/// Values that are worth a thread's while.
const SHARE: usize = 1 << 16;

/// A type to compute in on the host.
pub(crate) trait Value: WithDType {
    fn from_f32(value: f32) -> Self;
}

impl Value for f32 {
    fn from_f32(value: f32) -> Self {
        value
    }
}

impl Value for bf16 {
    fn from_f32(value: f32) -> Self {
        Self::from_f32(value)
    }
}

impl Value for f16 {
    fn from_f32(value: f32) -> Self {
        Self::from_f32(value)
    }
}

/// Appends a tensor's values, each rounded once if its type is narrower than the file's.
pub(crate) fn append<T: Value>(view: &TensorView<'_>, out: &mut Vec<T>) -> candle_core::Result<()> {
    match view.dtype() {
        Dtype::F32 => extend(view.data(), out, |bytes| T::from_f32(f32::from_le_bytes(bytes))),
        Dtype::BF16 => {
            extend(view.data(), out, |bytes| T::from_f32(bf16::from_le_bytes(bytes).to_f32()));
        }
        Dtype::F16 => {
            extend(view.data(), out, |bytes| T::from_f32(f16::from_le_bytes(bytes).to_f32()));
        }
        // Rare ones, as 8-bit floats, the slow way.
        _ => append_tensor(&view.load(&Device::Cpu)?, out)?,
    }
    Ok(())
}

/// The same for a tensor that is there already.
pub(crate) fn append_tensor<T: Value>(
    tensor: &Tensor,
    out: &mut Vec<T>,
) -> candle_core::Result<()> {
    out.extend(tensor.to_dtype(T::DTYPE)?.flatten_all()?.to_vec1::<T>()?);
    Ok(())
}

/// By several threads, so that page faults and roundings of one do not wait for those of another.
fn extend<T: Send, const N: usize>(
    bytes: &[u8],
    out: &mut Vec<T>,
    value: impl Fn([u8; N]) -> T + Send + Sync,
) {
    // The format gives whole values; `as_chunks` leaves no rest.
    let values = bytes.as_chunks::<N>().0.par_iter().with_min_len(SHARE);
    out.par_extend(values.map(|bytes| value(*bytes)));
}
