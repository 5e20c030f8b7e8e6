//! Kernels over f32 slices.
//!
//! Loops are written so that the compiler vectorizes them, and run inside `pulp`'s dispatch,
//! which compiles each one for AVX2 and AVX-512 (or NEON) and chooses when the program runs.

pub(crate) mod attention;
pub(crate) mod conv;
pub(crate) mod gemm;
pub(crate) mod math;
pub(crate) mod rows;
mod simd;
