//! `ZImageTransformerBlock`: attention and feed-forward, each between two norms, with the
//! modulation by time in the blocks that see the image.

use candle_core::{Result, Tensor};
use llm_dit_kernels::{
    Attention, Linear, Mask, Pairing, QkNorm, Rope, residual_gate_norm, rms_norm, rms_norm_scale,
    swiglu,
};
use llm_dit_weights::{LoadError, Weights};

use super::{config::Config, linear};

/// eps of the norms of queries and keys, whatever `norm_eps` says.
const QK_EPS: f64 = 1e-5;

pub struct Block {
    attention_norm1: Tensor,
    to_qkv: Linear,
    qk_norm: QkNorm,
    attention: Attention,
    to_out: Linear,
    attention_norm2: Tensor,
    ffn_norm1: Tensor,
    w1_w3: Linear,
    w2: Linear,
    ffn_norm2: Tensor,
    adaln_modulation: Option<Linear>,
    eps: f64,
}

/// A layer's part of the time embedding, each `(items, dim)`.
struct Modulation {
    scale_msa: Tensor,
    gate_msa: Tensor,
    scale_mlp: Tensor,
    gate_mlp: Tensor,
}

impl Block {
    pub fn load(
        config: &Config,
        modulated: bool,
        weights: &Weights,
    ) -> std::result::Result<Self, LoadError> {
        let (dim, ffn, head_dim) = (config.dim, config.ffn_dim(), config.head_dim());
        let square = [dim, dim];
        let (attn, feed_forward) = (weights.pp("attention"), weights.pp("feed_forward"));
        let adaln_modulation = if modulated {
            Some(linear(&weights.pp("adaLN_modulation.0"), 4 * dim, config.adaln_dim())?)
        } else {
            None
        };
        Ok(Self {
            attention_norm1: weights.get("attention_norm1.weight", &[dim])?,
            to_qkv: Linear::new(
                attn.stack(
                    &["to_q.weight", "to_k.weight", "to_v.weight"].map(|n| (n, &square[..])),
                )?,
                None,
            ),
            qk_norm: QkNorm {
                q_weight: attn.get("norm_q.weight", &[head_dim])?,
                k_weight: attn.get("norm_k.weight", &[head_dim])?,
                eps: QK_EPS,
                pairing: Pairing::Interleaved,
            },
            attention: Attention {
                heads: config.n_heads,
                kv_heads: config.n_heads,
                head_dim,
                mask: Mask::Full,
            },
            to_out: Linear::new(attn.get("to_out.0.weight", &[dim, dim])?, None),
            attention_norm2: weights.get("attention_norm2.weight", &[dim])?,
            ffn_norm1: weights.get("ffn_norm1.weight", &[dim])?,
            w1_w3: Linear::new(
                feed_forward.stack(&[("w1.weight", &[ffn, dim]), ("w3.weight", &[ffn, dim])])?,
                None,
            ),
            w2: Linear::new(feed_forward.get("w2.weight", &[dim, ffn])?, None),
            ffn_norm2: weights.get("ffn_norm2.weight", &[dim])?,
            adaln_modulation,
            eps: config.norm_eps,
        })
    }

    /// `x`: packed `(tokens, dim)`; `adaln`: the time embedding `(items, adaln_dim)`.
    pub fn forward(
        &self,
        x: &Tensor,
        adaln: Option<&Tensor>,
        rope: &Rope,
        lens: &[usize],
    ) -> Result<Tensor> {
        let modulation = match (&self.adaln_modulation, adaln) {
            (Some(linear), Some(adaln)) => Some(Modulation::new(&linear.forward(adaln)?)?),
            _ => None,
        };
        let scaled = |x: &Tensor, weight: &Tensor, scale: Option<&Tensor>| match scale {
            Some(scale) => rms_norm_scale(x, weight, scale, lens, self.eps),
            None => rms_norm(x, weight, self.eps),
        };
        let m = modulation.as_ref();

        let normed = scaled(x, &self.attention_norm1, m.map(|m| &m.scale_msa))?;
        let qkv = self.qk_norm.forward(&self.attention, &self.to_qkv.forward(&normed)?, rope)?;
        let attended = self.to_out.forward(&self.attention.forward(&qkv, lens)?)?;
        let x = residual_gate_norm(
            x,
            &attended,
            &self.attention_norm2,
            m.map(|m| &m.gate_msa),
            lens,
            self.eps,
        )?;

        let normed = scaled(&x, &self.ffn_norm1, m.map(|m| &m.scale_mlp))?;
        let fed = self.w2.forward(&swiglu(&self.w1_w3.forward(&normed)?)?)?;
        residual_gate_norm(&x, &fed, &self.ffn_norm2, m.map(|m| &m.gate_mlp), lens, self.eps)
    }
}

impl Modulation {
    fn new(chunks: &Tensor) -> Result<Self> {
        let dim = chunks.dim(1)? / 4;
        let chunk = |i: usize| chunks.narrow(1, i * dim, dim)?.contiguous();
        Ok(Self {
            scale_msa: (chunk(0)? + 1.0)?,
            gate_msa: chunk(1)?.tanh()?,
            scale_mlp: (chunk(2)? + 1.0)?,
            gate_mlp: chunk(3)?.tanh()?,
        })
    }
}
