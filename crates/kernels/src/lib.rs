//! The operations that the models are made of, each as one fused call.
//!
//! Every operation has two implementations. On the CPU it is a kernel of ours over plain f32
//! slices (other types are widened, computed in f32 and rounded once). On other devices it is
//! composed from candle's own operators in [`composed`], which is also what the CPU kernels are
//! tested against. Kernels for CUDA belong here too, so that `unsafe` stays in this crate.
//!
//! Sequences of unequal length are packed one after the other into `(tokens, width)`; `lens` says
//! where they end. No padding and no masks.

mod attention;
pub mod composed;
mod conv;
mod cpu;
mod host;
mod linear;
mod norm;
mod rope;
mod swiglu;

pub use attention::{Attention, Mask};
pub use conv::{Conv2d, ConvInput, GroupNorm};
pub use linear::Linear;
pub use norm::{layer_norm_scale, residual_gate_norm, rms_norm, rms_norm_scale};
pub use rope::{Pairing, QkNorm, Rope};
pub use swiglu::swiglu;
