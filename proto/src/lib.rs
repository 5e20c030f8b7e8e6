//! The wire: messages and services of `llmdit.v1`, the checked [`tensor::Tensor`] that travels in
//! chunks.
//!
//! This crate knows neither candle nor HTTP.

mod params;
mod passage;
pub mod tensor;

/// Generated from `proto/llmdit/v1/*.proto`.
#[expect(clippy::allow_attributes, reason = "prost and tonic write bare allows")]
#[expect(clippy::large_enum_variant, reason = "prost does not box; one of these lives at a time")]
pub mod v1 {
    tonic::include_proto!("llmdit.v1");
}

pub use llm_dit_fault::Fault;
pub use passage::Passage;
pub use tensor::{Assembler, DType, Tensor, TensorError, chunks};

/// Every descriptor of the package, for gRPC server reflection.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/llmdit.v1.bin"));
