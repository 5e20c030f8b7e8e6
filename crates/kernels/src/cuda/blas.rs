//! Products by cuBLAS that candle's own call does not offer: results in f32, leading dimensions,
//! and a factor.

use candle_core::{Result, cuda_backend::cudarc};
use cudarc::cublas::{result::gemm_strided_batched_ex, sys};
use llm_dit_device::CudaError;

use super::Gpu;

/// `factor * op(A) B` with sums in f32, `batch` times: A is `m x k` after `op`, B is `k x n`.
///
/// cuBLAS counts columns first, so a product of rows `C = B A^T` is that of the transposes, and row-major
/// operands are given as they lie.
#[derive(Clone, Copy)]
pub(super) struct Gemm {
    pub m: usize,
    pub n: usize,
    pub k: usize,
    pub transpose_a: bool,
    pub factor: f32,
    pub batch: usize,
}

/// A matrix on the GPU, or a batch of them.
#[derive(Clone, Copy)]
pub(super) struct Operand {
    pub address: u64,
    pub dtype: Type,
    /// Values from a column to the next.
    pub leading: usize,
    /// Values from a matrix to the next.
    pub stride: usize,
}

/// What the values of an operand are.
#[derive(Clone, Copy)]
pub(super) enum Type {
    Bf16,
    F16,
    F32,
}

impl Gpu {
    pub(super) fn gemm(&self, product: Gemm, a: Operand, b: Operand, c: Operand) -> Result<()> {
        let Gemm { m, n, k, transpose_a, factor, batch } = product;
        let operation = match transpose_a {
            true => sys::cublasOperation_t::CUBLAS_OP_T,
            false => sys::cublasOperation_t::CUBLAS_OP_N,
        };
        let zero = 0f32;
        let blas = self.device.cublas_handle();
        // SAFETY: the caller's matrices have these shapes and leading dimensions; the factors are f32
        // as the type of the sums says.
        unsafe {
            gemm_strided_batched_ex(
                *blas.handle(),
                operation,
                sys::cublasOperation_t::CUBLAS_OP_N,
                m as i32,
                n as i32,
                k as i32,
                std::ptr::from_ref(&factor).cast(),
                a.address as *const _,
                a.dtype.into(),
                a.leading as i32,
                a.stride as i64,
                b.address as *const _,
                b.dtype.into(),
                b.leading as i32,
                b.stride as i64,
                std::ptr::from_ref(&zero).cast(),
                c.address as *mut _,
                c.dtype.into(),
                c.leading as i32,
                c.stride as i64,
                batch as i32,
                sys::cublasComputeType_t::CUBLAS_COMPUTE_32F,
                sys::cublasGemmAlgo_t::CUBLAS_GEMM_DEFAULT_TENSOR_OP,
            )
        }
        .map_err(|error| CudaError::Cublas(error).into())
    }
}

impl Operand {
    /// A single matrix.
    pub const fn one(address: u64, dtype: Type, leading: usize) -> Self {
        Self { address, dtype, leading, stride: 0 }
    }
}

impl From<Type> for sys::cudaDataType {
    fn from(values: Type) -> Self {
        match values {
            Type::Bf16 => Self::CUDA_R_16BF,
            Type::F16 => Self::CUDA_R_16F,
            Type::F32 => Self::CUDA_R_32F,
        }
    }
}
