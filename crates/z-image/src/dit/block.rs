//! `ZImageTransformerBlock`: attention and feed-forward, each between two norms, with the
//! modulation by time in the blocks that see the image.

use candle_core::{Result, Tensor};
use llm_dit_kernels::{
    Attention, GatedLinear, Linear, Mask, NextNorm, Pairing, QkNorm, Rope, residual_gate_norm,
    residual_gate_norm_next,
};
use llm_dit_weights::{LoadError, Weights};

use super::{config::Config, linear};

/// eps of the norms of queries and keys, whatever `norm_eps` says.
const QK_EPS: f64 = 1e-5;

/// A transformer block: attention and a gated feed-forward layer, each between two RMSNorms.
#[derive(Clone)]
pub struct Block {
    attention_norm1: Tensor,
    to_qkv: Linear,
    qk_norm: QkNorm,
    attention: Attention,
    to_out: Linear,
    attention_norm2: Tensor,
    ffn_norm1: Tensor,
    w1_w3: GatedLinear,
    w2: Linear,
    ffn_norm2: Tensor,
    adaln_modulation: Option<Linear>,
    eps: f64,
}

/// A layer's part of the time embedding, each `(items, dim)`.
pub struct Modulation {
    scale_msa: Tensor,
    gate_msa: Tensor,
    scale_mlp: Tensor,
    gate_mlp: Tensor,
}

impl Block {
    /// Reads one block. Only `modulated` blocks have an adaLN layer.
    ///
    /// # Errors
    ///
    /// [`LoadError`] if a tensor is missing or has another shape.
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
                attn.stack_matrix(
                    &["to_q.weight", "to_k.weight", "to_v.weight"].map(|n| (n, &square)),
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
                half: weights.precision().is_half(),
            },
            to_out: Linear::new(attn.matrix("to_out.0.weight", &[dim, dim])?, None),
            attention_norm2: weights.get("attention_norm2.weight", &[dim])?,
            ffn_norm1: weights.get("ffn_norm1.weight", &[dim])?,
            w1_w3: GatedLinear::new(
                feed_forward
                    .stack_matrix(&[("w1.weight", &[ffn, dim]), ("w3.weight", &[ffn, dim])])?,
            )?,
            w2: Linear::new(feed_forward.matrix("w2.weight", &[dim, ffn])?, None),
            ffn_norm2: weights.get("ffn_norm2.weight", &[dim])?,
            adaln_modulation,
            eps: config.norm_eps,
        })
    }

    /// See [`Dit::negative`](super::Dit::negative).
    ///
    /// # Errors
    ///
    /// Fails if the device fails.
    pub fn without_sides(&self) -> Result<Self> {
        Ok(Self {
            to_qkv: self.to_qkv.without_side(),
            to_out: self.to_out.without_side(),
            w1_w3: self.w1_w3.without_side()?,
            w2: self.w2.without_side(),
            adaln_modulation: self.adaln_modulation.as_ref().map(Linear::without_side),
            ..self.clone()
        })
    }

    /// The adaLN layer's output for the time embedding `(times, adaln_dim)`: [`Modulation::PARTS`]
    /// beside each other, `(times, 4 * dim)`, to become factors by [`Modulation::factors`]. `None`
    /// for a block without modulation.
    ///
    /// # Errors
    ///
    /// Fails if the shapes do not fit, or if the device fails.
    pub fn modulate(&self, adaln: &Tensor) -> Result<Option<Tensor>> {
        self.adaln_modulation.as_ref().map(|linear| linear.forward(adaln)).transpose()
    }

    /// The norm that the block begins with.
    pub fn first_norm<'a>(&'a self, modulation: Option<&'a Modulation>) -> NextNorm<'a> {
        NextNorm { weight: &self.attention_norm1, scale: modulation.map(|m| &m.scale_msa) }
    }

    /// `x`: packed `(tokens, dim)`; `normed`: its [`Self::first_norm`]. Returns the sum and, where
    /// another block follows, that one's norm of it.
    ///
    /// # Errors
    ///
    /// Fails if the shapes do not fit, or if the device fails.
    pub fn forward(
        &self,
        x: &Tensor,
        normed: &Tensor,
        modulation: Option<&Modulation>,
        next: Option<&NextNorm<'_>>,
        rope: &Rope,
        lens: &[usize],
    ) -> Result<(Tensor, Option<Tensor>)> {
        let m = modulation;
        let qkv = self.qk_norm.forward(&self.attention, self.to_qkv.forward(normed)?, rope)?;
        let attended = self.to_out.forward(&self.attention.forward(&qkv, lens)?)?;
        // The largest of the activations; its memory serves the feed-forward layer.
        drop(qkv);
        let ffn_norm = NextNorm { weight: &self.ffn_norm1, scale: m.map(|m| &m.scale_mlp) };
        let (x, normed) = residual_gate_norm_next(
            x,
            &attended,
            &self.attention_norm2,
            m.map(|m| &m.gate_msa),
            &ffn_norm,
            lens,
            self.eps,
        )?;

        let fed = self.w2.forward(&self.w1_w3.forward(&normed)?)?;
        let (weight, gate) = (&self.ffn_norm2, m.map(|m| &m.gate_mlp));
        match next {
            Some(next) => {
                let (x, normed) =
                    residual_gate_norm_next(&x, &fed, weight, gate, next, lens, self.eps)?;
                Ok((x, Some(normed)))
            }
            None => Ok((residual_gate_norm(&x, &fed, weight, gate, lens, self.eps)?, None)),
        }
    }

    /// Applies the blocks in order, each with its modulation if there are any.
    ///
    /// # Errors
    ///
    /// Fails if the shapes do not fit, or if the device fails.
    pub fn stack(
        blocks: &[Self],
        x: Tensor,
        modulations: &[Modulation],
        rope: &Rope,
        lens: &[usize],
    ) -> Result<Tensor> {
        let modulation = |i: usize| modulations.get(i);
        let Some(first) = blocks.first() else { return Ok(x) };
        let mut normed = Some(first.first_norm(modulation(0)).forward(&x, lens, first.eps)?);
        let mut x = x;
        for (i, block) in blocks.iter().enumerate() {
            let Some(of_x) = normed.take() else { break };
            let next = blocks.get(i + 1).map(|next| next.first_norm(modulation(i + 1)));
            (x, normed) = block.forward(&x, &of_x, modulation(i), next.as_ref(), rope, lens)?;
        }
        Ok(x)
    }
}

impl Modulation {
    /// Scale and gate of the attention, scale and gate of the feed-forward layer.
    pub const PARTS: usize = 4;

    /// From the linear layers of several blocks, one after the other, to what the blocks multiply by:
    /// `1 + scale` and `tanh(gate)`.
    ///
    /// # Errors
    ///
    /// Fails if the shapes do not fit, or if the device fails.
    pub fn factors(blocks: &[Tensor], dim: usize) -> Result<Tensor> {
        let all = Tensor::cat(blocks, 1)?;
        let (times, width) = all.dims2()?;
        // Scale and gate take turns.
        let pairs = all.reshape((times, width / (2 * dim), 2, dim))?;
        let scales = (pairs.narrow(2, 0, 1)?.contiguous()? + 1.0)?;
        let gates = pairs.narrow(2, 1, 1)?.contiguous()?.tanh()?;
        Tensor::cat(&[scales, gates], 2)?.reshape((times, width))
    }

    /// The part of one block in a table of all blocks', from column `start`.
    ///
    /// # Errors
    ///
    /// Fails if the table has too few columns.
    pub fn of(all: &Tensor, start: usize, dim: usize) -> Result<Self> {
        let part = |i: usize| all.narrow(1, start + i * dim, dim);
        Ok(Self {
            scale_msa: part(0)?,
            gate_msa: part(1)?,
            scale_mlp: part(2)?,
            gate_mlp: part(3)?,
        })
    }
}
