//! Attention within each packed sequence.

use candle_core::{Error, Result, Tensor};

use crate::{composed, cpu, host};

/// Which keys a query sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mask {
    /// All of its own sequence.
    Full,
    /// Those up to itself.
    Causal,
}

/// Heads of one attention layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attention {
    pub heads: usize,
    /// Fewer than `heads` where groups of queries share keys and values.
    pub kv_heads: usize,
    pub head_dim: usize,
    pub mask: Mask,
}

impl Attention {
    /// `softmax(q k^T / sqrt(head_dim)) v`.
    ///
    /// `qkv`: `(tokens, (heads + 2 * kv_heads) * head_dim)`, the fused projections; result:
    /// `(tokens, heads * head_dim)`.
    pub fn forward(&self, qkv: &Tensor, lens: &[usize]) -> Result<Tensor> {
        let rows = self.check(qkv)?;
        host::check_lens(lens, rows)?;
        #[cfg(feature = "cuda")]
        if let Some(gpu) = crate::cuda::Gpu::of(qkv)?
            && let Some(out) = gpu.attention(self, qkv, lens)?
        {
            return Ok(out);
        }
        if !host::is_cpu(qkv) {
            return composed::attention(self, qkv, lens);
        }
        let width = self.heads * self.head_dim;
        let input = host::Host::new(qkv)?;
        let mut out = vec![0f32; rows * width];
        let scale = 1.0 / (self.head_dim as f32).sqrt();
        cpu::attention::attention(
            &input.values()?,
            self.layout(),
            lens,
            self.mask == Mask::Causal,
            scale,
            &mut out,
        );
        host::output(out, &[rows, width], qkv.dtype())
    }

    pub(crate) fn layout(&self) -> cpu::rows::Heads {
        cpu::rows::Heads { queries: self.heads, keys: self.kv_heads, dim: self.head_dim }
    }

    /// Rows of `qkv`, if its width fits.
    pub(crate) fn check(&self, qkv: &Tensor) -> Result<usize> {
        let (rows, width) = qkv.dims2()?;
        if width != self.layout().row()
            || self.kv_heads == 0
            || !self.heads.is_multiple_of(self.kv_heads)
        {
            return Err(Error::Msg(format!(
                "fused projections of width {width} do not fit {self:?}"
            )));
        }
        Ok(rows)
    }
}
