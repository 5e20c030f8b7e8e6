//! Dtypes that tensors are converted to: the requested one, or one that suits the device; and the
//! wire's name for it.

use candle_core::{DType, Device};

/// The dtype to compute in: the requested one; by default f32 on the CPU, whose kernels compute in
/// it, and bf16 on other devices.
pub fn compute_dtype(asked: Option<llm_dit_proto::DType>, device: &Device) -> DType {
    match (asked, device) {
        (Some(llm_dit_proto::DType::F32), _) | (None, Device::Cpu) => DType::F32,
        (Some(llm_dit_proto::DType::F16), _) => DType::F16,
        (Some(llm_dit_proto::DType::Bf16), _) | (None, _) => DType::BF16,
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
