//! What the models compute in.

use candle_core::{DType, Device};
use llm_dit_device::has_bf16;

/// The dtype to compute in: the requested one; by default bf16, or what the device computes in
/// otherwise: f32 on the CPU, and f16 on GPUs before Ampere.
pub fn compute_dtype(asked: Option<llm_dit_proto::DType>, device: &Device) -> DType {
    match asked {
        Some(llm_dit_proto::DType::F32) => DType::F32,
        Some(llm_dit_proto::DType::F16) => DType::F16,
        Some(llm_dit_proto::DType::Bf16) => DType::BF16,
        None if has_bf16(device) => DType::BF16,
        None if device.is_cuda() => DType::F16,
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

/// The types of one part's tensors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Precision {
    /// Of activations, norms and biases.
    pub activations: DType,
    /// Of matrices.
    pub matrices: DType,
}

impl Precision {
    /// Of a transformer that computes in this type. Beside f16 weights its activations are f32, since
    /// they exceed the range of f16.
    pub fn of_transformer(dtype: DType) -> Self {
        let activations = if dtype == DType::F16 { DType::F32 } else { dtype };
        Self { activations, matrices: dtype }
    }

    /// Whether f32 activations meet f16 matrices.
    pub fn is_half(self) -> bool {
        self.activations == DType::F32 && self.matrices == DType::F16
    }
}

impl From<DType> for Precision {
    fn from(dtype: DType) -> Self {
        Self { activations: dtype, matrices: dtype }
    }
}
