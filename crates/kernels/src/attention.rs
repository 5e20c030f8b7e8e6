//! Attention within each packed sequence.

use candle_core::{Error, Result, Tensor};

use crate::{accelerated, composed, cpu, host};

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
    /// Whether the two products of f32 tensors may be of f16 values, where the device's tensor cores
    /// have no wider ones. Sums and softmax are f32 in any case.
    pub half: bool,
}

impl Attention {
    /// `softmax(q k^T / sqrt(head_dim)) v`.
    ///
    /// `qkv`: `(tokens, (heads + 2 * kv_heads) * head_dim)`, the fused projections; result:
    /// `(tokens, heads * head_dim)`, in the same type on the same device. `seq_lens`: tokens of each
    /// packed sequence, which add up to `tokens`; queries see keys of their own sequence only.
    ///
    /// # Errors
    ///
    /// Where width or lengths do not fit.
    pub fn forward(&self, qkv: &Tensor, seq_lens: &[usize]) -> Result<Tensor> {
        let rows = self.check(qkv)?;
        host::check_seq_lens(seq_lens, rows)?;
        if let Some(kernels) = accelerated::of(qkv)?
            && let Some(out) = kernels.attention(self, qkv, seq_lens)?
        {
            return Ok(out);
        }
        if !host::is_cpu(qkv) {
            return composed::attention(self, qkv, seq_lens);
        }
        let width = self.heads * self.head_dim;
        let input = host::Host::new(qkv)?;
        let mut out = vec![0f32; rows * width];
        let scale = 1.0 / (self.head_dim as f32).sqrt();
        cpu::attention::attention(
            &input.values()?,
            self.layout(),
            seq_lens,
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
