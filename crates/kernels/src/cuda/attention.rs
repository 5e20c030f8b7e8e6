//! Attention within packed sequences: by cuDNN, by our own kernel, or, for one wide head, as two
//! products with a softmax between them.

use candle_core::{Result, Tensor, cuda_backend::cudarc};
use cudarc::driver::sys::CUstream;
use half::bf16;

use super::{
    Gpu,
    blas::{Gemm, Operand, Type},
    cudnn,
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
        let Attention { heads, kv_heads, head_dim, mask, .. } = *attention;
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
        let Attention { heads, kv_heads, head_dim, mask, .. } = *attention;
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
                self.gemm(
                    Gemm { m: len, n: count, k: dim, transpose_a: true, factor: 1.0, batch: 1 },
                    Operand::one(keys, Type::Bf16, 3 * dim),
                    Operand::one(queries, Type::Bf16, 3 * dim),
                    Operand::one(s, Type::F32, len),
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
                let to = out + (first * dim * size_of::<bf16>()) as u64;
                self.gemm(
                    Gemm { m: dim, n: count, k: len, transpose_a: false, factor: 1.0, batch: 1 },
                    Operand::one(values, Type::Bf16, 3 * dim),
                    Operand::one(p, Type::Bf16, len),
                    Operand::one(to, Type::Bf16, dim),
                )?;
            }
            qkv += (len * row) as u64;
            out += (len * dim * size_of::<bf16>()) as u64;
        }
        Ok(())
    }
}
