//! Qwen3 as a text encoder: token ids to hidden states.
//!
//! Follows transformers' `Qwen3Model`; module and tensor names mirror the checkpoint. One
//! sequence at a time, without padding and without a cache, since nothing is ever generated.

use candle_core::{DType, Device, Result, Tensor};
use llm_dit_kernels::{
    Attention, GatedLinear, Linear, Mask, Matrix, Pairing, QkNorm, Rope, add_rms_norm, rms_norm,
};
use llm_dit_weights::{LoadError, Weights};

use crate::{config::Config, names};

/// The decoder stack, without a language-model head.
pub struct Qwen3 {
    config: Config,
    device: Device,
    dtype: DType,
    embed_tokens: Matrix,
    layers: Vec<Layer>,
    norm: Tensor,
}

struct Layer {
    input_layernorm: Tensor,
    qkv_proj: Linear,
    qk_norm: QkNorm,
    attention: Attention,
    o_proj: Linear,
    post_attention_layernorm: Tensor,
    gate_up_proj: GatedLinear,
    down_proj: Linear,
    eps: f64,
}

impl Qwen3 {
    /// Reads the tensors of a model of this configuration. Dtype and device are those of `weights`.
    ///
    /// # Errors
    ///
    /// [`LoadError`] if a tensor is missing or has another shape, or if tensors remain that the
    /// model does not know.
    pub fn load(config: Config, weights: &Weights) -> std::result::Result<Self, LoadError> {
        let layers = (0..config.num_hidden_layers)
            .map(|i| Layer::load(&config, &weights.pp("layers").pp(i)))
            .collect::<std::result::Result<_, _>>()?;
        let embeddings = [config.vocab_size, config.hidden_size];
        let model = Self {
            device: weights.device().clone(),
            dtype: weights.dtype(),
            embed_tokens: weights.table("embed_tokens.weight", &embeddings)?,
            layers,
            norm: weights.get("norm.weight", &[config.hidden_size])?,
            config,
        };
        weights.finish(names::is_unused)?;
        Ok(model)
    }

    /// `output_hidden_states[hidden_layer]`, shape `(tokens, hidden_size)`: 0 is the embedding
    /// table's output, `num_hidden_layers` the last layer's after the final norm. Layers that
    /// are not needed are not run.
    ///
    /// # Errors
    ///
    /// Fails if the device fails, for example for lack of memory.
    pub fn hidden_states(&self, ids: &[u32], hidden_layer: usize) -> Result<Tensor> {
        let ids = Tensor::new(ids, &self.device)?;
        let mut x = self.embed_tokens.select_rows(&ids)?.to_dtype(self.dtype)?;
        let rope = self.rope(x.dim(0)?)?;
        let layers = &self.layers[..hidden_layer];
        // Each layer's sum and the norm after it are one pass over memory.
        let norms = self.layers.iter().map(|layer| &layer.input_layernorm).chain([&self.norm]);
        let norms: Vec<&Tensor> = norms.collect();
        let eps = self.config.rms_norm_eps;
        let mut normed = match layers.first() {
            Some(first) => Some(rms_norm(&x, &first.input_layernorm, eps)?),
            None => None,
        };
        for (i, layer) in layers.iter().enumerate() {
            let Some(of_x) = normed.take() else { break };
            // After the last layer that is run, a norm is due only if it is the model's last.
            let due = i + 1 < hidden_layer || hidden_layer == self.layers.len();
            (x, normed) = layer.forward(&x, &of_x, due.then_some(norms[i + 1]), &rope)?;
        }
        Ok(normed.unwrap_or(x))
    }

    /// Frequencies and angles in f32, as transformers computes them.
    fn rope(&self, tokens: usize) -> Result<Rope> {
        let dim = self.config.head_dim();
        let inverse: Vec<f32> = (0..dim / 2)
            .map(|i| 1.0 / (self.config.theta() as f32).powf(2.0 * i as f32 / dim as f32))
            .collect();
        let angles: Vec<f32> =
            (0..tokens).flat_map(|t| inverse.iter().map(move |f| t as f32 * f)).collect();
        let table = |f: fn(f32) -> f32| {
            let values: Vec<f32> = angles.iter().map(|&a| f(a)).collect();
            Tensor::from_vec(values, (tokens, dim / 2), &self.device)
        };
        Ok(Rope { cos: table(f32::cos)?, sin: table(f32::sin)? })
    }
}

impl Layer {
    fn load(config: &Config, weights: &Weights) -> std::result::Result<Self, LoadError> {
        let (hidden, ffn, dim) = (config.hidden_size, config.intermediate_size, config.head_dim());
        let (heads, kv_heads) = (config.num_attention_heads, config.num_key_value_heads);
        let (attn, mlp) = (weights.pp("self_attn"), weights.pp("mlp"));
        let eps = config.rms_norm_eps;
        Ok(Self {
            input_layernorm: weights.get("input_layernorm.weight", &[hidden])?,
            qkv_proj: Linear::new(
                attn.stack_matrix(&[
                    ("q_proj.weight", &[heads * dim, hidden]),
                    ("k_proj.weight", &[kv_heads * dim, hidden]),
                    ("v_proj.weight", &[kv_heads * dim, hidden]),
                ])?,
                None,
            ),
            qk_norm: QkNorm {
                q_weight: attn.get("q_norm.weight", &[dim])?,
                k_weight: attn.get("k_norm.weight", &[dim])?,
                eps,
                pairing: Pairing::Halves,
            },
            attention: Attention {
                heads,
                kv_heads,
                head_dim: dim,
                mask: Mask::Causal,
                half: weights.precision().is_half(),
            },
            o_proj: Linear::new(attn.matrix("o_proj.weight", &[hidden, heads * dim])?, None),
            post_attention_layernorm: weights.get("post_attention_layernorm.weight", &[hidden])?,
            gate_up_proj: GatedLinear::new(mlp.stack_matrix(&[
                ("gate_proj.weight", &[ffn, hidden]),
                ("up_proj.weight", &[ffn, hidden]),
            ])?)?,
            down_proj: Linear::new(mlp.matrix("down_proj.weight", &[hidden, ffn])?, None),
            eps,
        })
    }

    /// `normed` is `x` after this layer's `input_layernorm`. Returns the sum and, where a norm
    /// follows, the norm of it.
    fn forward(
        &self,
        x: &Tensor,
        normed: &Tensor,
        next: Option<&Tensor>,
        rope: &Rope,
    ) -> Result<(Tensor, Option<Tensor>)> {
        let tokens = x.dim(0)?;
        let qkv = self.qk_norm.forward(&self.attention, self.qkv_proj.forward(normed)?, rope)?;
        let attended = self.o_proj.forward(&self.attention.forward(&qkv, &[tokens])?)?;
        let (x, normed) = add_rms_norm(x, &attended, &self.post_attention_layernorm, self.eps)?;
        let fed = self.down_proj.forward(&self.gate_up_proj.forward(&normed)?)?;
        match next {
            Some(weight) => {
                let (x, normed) = add_rms_norm(&x, &fed, weight, self.eps)?;
                Ok((x, Some(normed)))
            }
            None => Ok(((x + fed)?, None)),
        }
    }
}
