//! Reads stored bytes as values on the host and converts them on the way: no value is in memory
//! twice.

use candle_core::{Device, Tensor, safetensors::Load as _};
use half::{bf16, f16};
use llm_dit_kernels::Value;
use rayon::prelude::*;
use safetensors::{Dtype, tensor::TensorView};

/// Values that are worth a thread's while.
const SHARE: usize = 1 << 16;

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
        Dtype::F8_E5M2 => extend(view.data(), out, |bytes| T::from_f32(e5m2(bytes).to_f32())),
        // Rare ones, the slow way.
        _ => append_tensor(&load(view, &Device::Cpu)?, out)?,
    }
    Ok(())
}

/// The tensor in a type that can be computed with: its own, if candle knows it.
pub(crate) fn load(view: &TensorView<'_>, device: &Device) -> candle_core::Result<Tensor> {
    if view.dtype() != Dtype::F8_E5M2 {
        return view.load(device);
    }
    let values: Vec<f16> = view.data().as_chunks().0.iter().map(|bytes| e5m2(*bytes)).collect();
    Tensor::from_vec(values, view.shape(), device)
}

/// It has the exponent of f16, and the first two bits of its fraction.
fn e5m2([byte]: [u8; 1]) -> f16 {
    f16::from_bits(u16::from(byte) << 8)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_floats_are_what_their_bits_say() {
        // Signs, the largest, the smallest, one, and what is between.
        let bytes = [0x00, 0x80, 0x3c, 0xbc, 0x7b, 0x01, 0x42, 0x41];
        let view = TensorView::new(Dtype::F8_E5M2, vec![8], &bytes).expect("fits");
        let expected = [0.0, -0.0, 1.0, -1.0, 57344.0, 2f32.powi(-16), 3.0, 2.5];
        let mut values: Vec<f32> = Vec::new();
        append(&view, &mut values).expect("read");
        assert_eq!(values, expected);
        let tensor = load(&view, &Device::Cpu).expect("read");
        let tensor = tensor.to_dtype(candle_core::DType::F32).expect("f32");
        assert_eq!(tensor.to_vec1::<f32>().expect("values"), expected);
    }
}
