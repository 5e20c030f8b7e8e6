//! Attention within packed sequences: by cuDNN, by our own kernel, or, for one wide head, as two
//! products with a softmax between them.

use candle_core::{Result, Tensor, cuda_backend::cudarc};
use cudarc::{
    cublas::{result::gemm_ex, sys as cublas},
    driver::sys::CUstream,
};
use half::bf16;
use llm_dit_device::CudaError;

use super::{
    Gpu, cudnn,
    source::Source,
    tensor::{Ends, address, blocks, launch},
};
use crate::{Attention, Mask};

/// Scores that the wide attention keeps at a time.
const MOST_SCORES: usize = 1 << 25;

impl Gpu {
    pub(super) fn attention(
        &self,
        attention: &Attention,
        qkv: &Tensor,
        seq_lens: &[usize],
    ) -> Result<Option<Tensor>> {
        let Attention { heads, kv_heads, head_dim, mask } = *attention;
        let qkv = self.dense::<bf16>(qkv)?;
        let out = self.empty::<bf16>(&[qkv.dim(0)?, heads * head_dim])?;
        if self.cudnn
            && mask == Mask::Full
            && head_dim.is_multiple_of(8)
            && head_dim <= 128
            && self.attention_cudnn(attention, &qkv, seq_lens, &out)?
        {
            return Ok(Some(out));
        }
        if matches!(head_dim, 16 | 32 | 48 | 64 | 96 | 128)
            && let Some(ends) = Ends::new(seq_lens)
        {
            self.attention_tiled(attention, &qkv, seq_lens, ends, &out)?;
            return Ok(Some(out));
        }
        let wide = heads == 1 && kv_heads == 1 && mask == Mask::Full;
        if wide && head_dim.is_multiple_of(8) && seq_lens.iter().all(|len| len.is_multiple_of(4)) {
            self.attention_wide(head_dim, &qkv, seq_lens, &out)?;
            return Ok(Some(out));
        }
        Ok(None)
    }

    /// False where cuDNN is missing or has no kernel for this.
    fn attention_cudnn(
        &self,
        attention: &Attention,
        qkv: &Tensor,
        seq_lens: &[usize],
        out: &Tensor,
    ) -> Result<bool> {
        let (mut qkv, mut out) = (address::<bf16>(qkv)?, address::<bf16>(out)?);
        let out_row = attention.heads * attention.head_dim;
        let row = out_row + 2 * attention.kv_heads * attention.head_dim;
        // Sequences of one length that follow each other are one call.
        for run in seq_lens.chunk_by(|a, b| a == b) {
            let shape = cudnn::Shape {
                batch: run.len(),
                len: run[0],
                heads: attention.heads,
                kv_heads: attention.kv_heads,
                head_dim: attention.head_dim,
            };
            if !cudnn::attention(self, shape, qkv, out)? {
                return Ok(false);
            }
            let rows = run.len() * run[0];
            qkv += (rows * row * size_of::<bf16>()) as u64;
            out += (rows * out_row * size_of::<bf16>()) as u64;
        }
        Ok(true)
    }

    /// Memory on the GPU's stream for as long as the tensor lives.
    pub(super) fn workspace(&self, bytes: usize) -> Result<Tensor> {
        self.empty::<u8>(&[bytes.max(16)])
    }

    pub(super) fn raw_stream(&self) -> CUstream {
        self.stream.cu_stream()
    }

    pub(super) fn ordinal(&self) -> usize {
        self.properties.ordinal
    }

    fn attention_tiled(
        &self,
        attention: &Attention,
        qkv: &Tensor,
        seq_lens: &[usize],
        ends: Ends,
        out: &Tensor,
    ) -> Result<()> {
        let Attention { heads, kv_heads, head_dim, mask } = *attention;
        let longest = seq_lens.iter().max().copied().unwrap_or(0);
        if longest == 0 {
            return Ok(());
        }
        let (head, keys) = (head_dim as u32, self.kernels.attention_keys);
        let source = Source::Attention { head, causal: mask == Mask::Causal, keys };
        let shared = Source::attention_bytes(head, keys);
        let tiles = longest.div_ceil(Source::ATTENTION_QUERIES);
        launch!(
            self,
            self.function_with(source, "attention", shared)?,
            blocks((tiles, heads, seq_lens.len()), 128, shared)?,
            address::<bf16>(qkv)?,
            address::<bf16>(out)?,
            heads as i32,
            kv_heads as i32,
            1.0 / (head_dim as f32).sqrt(),
            ends,
        )
    }

    /// Scores are f32 and pass through memory, a stretch of queries at a time.
    fn attention_wide(
        &self,
        dim: usize,
        qkv: &Tensor,
        seq_lens: &[usize],
        out: &Tensor,
    ) -> Result<()> {
        let (mut qkv, mut out) = (address::<bf16>(qkv)?, address::<bf16>(out)?);
        let row = 3 * dim * size_of::<bf16>();
        for &len in seq_lens {
            let (keys, values) = (qkv + (row / 3) as u64, qkv + (2 * row / 3) as u64);
            let stretch = (MOST_SCORES / len.max(1)).clamp(1, len.max(1));
            let scores = self.empty::<f32>(&[stretch, len])?;
            let weights = self.empty::<bf16>(&[stretch, len])?;
            let (s, p) = (address::<f32>(&scores)?, address::<bf16>(&weights)?);
            for first in (0..len).step_by(stretch) {
                let count = stretch.min(len - first);
                let queries = qkv + (first * row) as u64;
                // cuBLAS counts columns first, so a product of rows is that of the transposes.
                self.gemm(
                    Gemm { m: len, n: count, k: dim, transpose_a: true },
                    (keys, 3 * dim),
                    (queries, 3 * dim),
                    (s, len, cublas::cudaDataType::CUDA_R_32F),
                )?;
                launch!(
                    self,
                    self.function(Source::Pointwise, "softmax")?,
                    blocks((count, 1, 1), 1024, 0)?,
                    s,
                    p,
                    len as i32,
                    1.0 / (dim as f32).sqrt(),
                )?;
                self.gemm(
                    Gemm { m: dim, n: count, k: len, transpose_a: false },
                    (values, 3 * dim),
                    (p, len),
                    (
                        out + (first * dim * size_of::<bf16>()) as u64,
                        dim,
                        cublas::cudaDataType::CUDA_R_16BF,
                    ),
                )?;
            }
            qkv += (len * row) as u64;
            out += (len * dim * size_of::<bf16>()) as u64;
        }
        Ok(())
    }

    /// Column-major, bf16 operands with their leading dimensions, f32 sums.
    fn gemm(
        &self,
        Gemm { m, n, k, transpose_a }: Gemm,
        a: (u64, usize),
        b: (u64, usize),
        c: (u64, usize, cublas::cudaDataType),
    ) -> Result<()> {
        let bf16 = cublas::cudaDataType::CUDA_R_16BF;
        let operation = if transpose_a {
            cublas::cublasOperation_t::CUBLAS_OP_T
        } else {
            cublas::cublasOperation_t::CUBLAS_OP_N
        };
        let (alpha, beta) = (1f32, 0f32);
        let blas = self.device.cublas_handle();
        // SAFETY: the caller's matrices have these shapes and leading dimensions; the factors are f32
        // as the type of the sums says.
        unsafe {
            gemm_ex(
                *blas.handle(),
                operation,
                cublas::cublasOperation_t::CUBLAS_OP_N,
                m as i32,
                n as i32,
                k as i32,
                std::ptr::from_ref(&alpha).cast(),
                a.0 as *const _,
                bf16,
                a.1 as i32,
                b.0 as *const _,
                bf16,
                b.1 as i32,
                std::ptr::from_ref(&beta).cast(),
                c.0 as *mut _,
                c.2,
                c.1 as i32,
                cublas::cublasComputeType_t::CUBLAS_COMPUTE_32F,
                cublas::cublasGemmAlgo_t::CUBLAS_GEMM_DEFAULT_TENSOR_OP,
            )
        }
        .map_err(|error| CudaError::Cublas(error).into())
    }
}

#[derive(Clone, Copy)]
struct Gemm {
    m: usize,
    n: usize,
    k: usize,
    transpose_a: bool,
}
