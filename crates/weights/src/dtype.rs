//! Dtypes that tensors are converted to: the requested one, or one that suits the device; and the
//! wire's name for it.

use candle_core::{DType, Device};
use llm_dit_device::has_bf16;

/// The dtype to compute in: the requested one; by default bf16, or f32 on devices that do not compute
/// in bf16: the CPU, and GPUs before Ampere.
pub fn compute_dtype(asked: Option<llm_dit_proto::DType>, device: &Device) -> DType {
    match asked {
        Some(llm_dit_proto::DType::F32) => DType::F32,
        Some(llm_dit_proto::DType::F16) => DType::F16,
        Some(llm_dit_proto::DType::Bf16) => DType::BF16,
        None if has_bf16(device) => DType::BF16,
        None => DType::F32,
    }
}

/// The wire's name of a type that [`compute_dtype`] gave.
pub fn wire_dtype(dtype: DType) -> llm_dit_proto::DType {
    match dtype {
        DType::BF16 => llm_dit_proto::DType::Bf16,
        DType::F16 => llm_dit_proto::DType::F16,
        _ => llm_dit_proto::DType::F32,
    }
}
