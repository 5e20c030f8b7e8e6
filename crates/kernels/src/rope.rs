//! Norm of queries and keys, and rotary position embedding, in one pass.

use candle_core::{Result, Tensor};

pub use crate::cpu::rows::Pairing;
use crate::{Attention, accelerated, composed, cpu, host};

/// Rotations of every packed token: cosine and sine `(tokens, head_dim / 2)`, f32.
#[derive(Clone, Debug)]
pub struct Rope {
    pub cos: Tensor,
    pub sin: Tensor,
}

/// RMS norm over each head of queries and keys, then the rotation.
#[derive(Clone, Debug)]
pub struct QkNorm {
    /// `(head_dim)` each.
    pub q_weight: Tensor,
    pub k_weight: Tensor,
    pub eps: f64,
    pub pairing: Pairing,
}

impl QkNorm {
    /// `qkv`: `(tokens, (heads + 2 * kv_heads) * head_dim)`; the values pass through. The result has its
    /// shape, type and device. The tensor is given away since a GPU writes where it lies: nothing else
    /// may hold its memory.
    ///
    /// # Errors
    ///
    /// Where shapes do not fit.
    pub fn forward(&self, attention: &Attention, qkv: Tensor, rope: &Rope) -> Result<Tensor> {
        let rows = attention.check(&qkv)?;
        let half = attention.head_dim / 2;
        if rope.cos.dims() != [rows, half] || rope.sin.dims() != [rows, half] {
            candle_core::bail!(
                "rotations of shape {:?} for {rows} tokens of {half} pairs",
                rope.cos.dims()
            );
        }
        if [&self.q_weight, &self.k_weight].iter().any(|w| w.dims() != [attention.head_dim]) {
            candle_core::bail!("norms of heads {} wide", attention.head_dim);
        }
        let qkv = match accelerated::of(&qkv)? {
            Some(kernels) => match kernels.qk_norm_rope(self, attention, qkv, rope)? {
                Ok(turned) => return Ok(turned),
                Err(qkv) => qkv,
            },
            None => qkv,
        };
        if !host::is_cpu(&qkv) {
            return composed::qk_norm_rope(self, attention, &qkv, rope);
        }
        let qkv = &qkv;
        let [x, q, k, cos, sin] =
            [qkv, &self.q_weight, &self.k_weight, &rope.cos, &rope.sin].map(host::Host::new);
        let (x, q, k, cos, sin) = (x?, q?, k?, cos?, sin?);
        let mut out = vec![0f32; qkv.elem_count()];
        cpu::rows::qk_norm_rope(
            &x.values()?,
            attention.layout(),
            &q.values()?,
            &k.values()?,
            &cos.values()?,
            &sin.values()?,
            self.pairing,
            self.eps as f32,
            &mut out,
        );
        host::output(out, qkv.dims(), qkv.dtype())
    }
}
