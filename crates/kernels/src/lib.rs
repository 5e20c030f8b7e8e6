//! The operations that the models are made of, each as one fused call.
//!
//! On the CPU an operation is a kernel of ours over plain f32 slices (other types are widened,
//! computed in f32 and rounded once). On NVIDIA GPUs it is a kernel of ours for bf16. Everywhere
//! else, and in every other type, it is composed from candle's own operators in [`composed`], which
//! is also what the kernels are tested against. `unsafe` stays in this crate.
//!
//! Sequences of unequal length are packed one after the other into `(tokens, width)`; `lens` says
//! where they end. No padding and no masks.

mod attention;
pub mod composed;
mod conv;
mod cpu;
#[cfg(feature = "cuda")]
mod cuda;
#[path = "cuda/source.rs"]
pub mod cuda_source;
mod gated;
mod host;
mod linear;
mod norm;
mod rope;

pub use attention::{Attention, Mask};
pub use conv::{Conv2d, ConvInput, GroupNorm};
#[cfg(feature = "cuda")]
pub use cuda::matmul_tiled;
pub use gated::{GatedLinear, swiglu};
pub use linear::Linear;
pub use norm::{
    NextNorm, add_rms_norm, layer_norm_scale, residual_gate_norm, residual_gate_norm_next,
    rms_norm, rms_norm_scale,
};
pub use rope::{Pairing, QkNorm, Rope};
