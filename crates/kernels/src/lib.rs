//! The operations that the models are made of, each as one fused call.
//!
//! An operation checks shapes, asks `accelerated.rs` for a kernel of the tensor's device (NVIDIA GPUs
//! have ours for bf16), computes on the CPU with a kernel of ours over plain f32 slices (other types
//! are widened, computed in f32 and rounded once), or is composed from candle's own operators in
//! [`composed`], which is also what the kernels are tested against.
//!
//! Operands are on one device, and results are there in the operands' type. Weights may be f16 beside
//! f32 activations; see `half.rs`. Sequences of unequal
//! length are packed one after the other into `(tokens, width)`; `seq_lens` are their lengths and add
//! up to `tokens`. No padding and no masks.

mod accelerated;
mod attention;
pub mod composed;
mod conv;
mod cpu;
#[cfg(feature = "cuda")]
mod cuda;
#[path = "cuda/choice.rs"]
pub mod cuda_choice;
#[path = "cuda/source.rs"]
pub mod cuda_source;
mod gated;
mod half;
mod host;
mod linear;
mod matrix;
mod norm;
mod packed;
mod product;
mod rope;
mod side;

pub use attention::{Attention, Mask};
pub use conv::{Conv2d, ConvInput, GroupNorm};
#[cfg(feature = "cuda")]
pub use cuda::matmul_tiled;
pub use gated::{GatedLinear, swiglu};
pub use linear::Linear;
pub use matrix::{Matrix, StoredRows};
pub use norm::{
    NextNorm, add_rms_norm, layer_norm_scale, residual_gate_norm, residual_gate_norm_next,
    rms_norm, rms_norm_scale,
};
pub use packed::{Format, Packed, PackedRows, Scratch, Value, dequantize, expand_rows};
pub use rope::{Pairing, QkNorm, Rope};
pub use side::SideBranch;
