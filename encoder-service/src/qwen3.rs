//! Qwen3 as a text encoder: token ids to hidden states.
//!
//! Follows transformers' `Qwen3Model`; module and tensor names mirror the checkpoint. One
//! sequence at a time, without padding and without a cache, since nothing is ever generated.

use candle_core::{DType, Device, Result, Tensor};
use llm_dit_kernels::{Attention, Linear, Mask, Pairing, QkNorm, Rope, rms_norm, swiglu};
use llm_dit_weights::{LoadError, Weights};
use serde::Deserialize;

/// `text_encoder/config.json`.
#[derive(Clone, Debug, Deserialize)]
pub struct Config {
    pub vocab_size: usize,
    pub hidden_size: usize,
    pub intermediate_size: usize,
    pub num_hidden_layers: usize,
    pub num_attention_heads: usize,
    pub num_key_value_heads: usize,
    head_dim: Option<usize>,
    pub rms_norm_eps: f64,
    /// Where transformers 4 keeps the base of the rotation.
    rope_theta: Option<f64>,
    /// Where transformers 5 keeps it.
    rope_parameters: Option<RopeParameters>,
    pub max_position_embeddings: usize,
    #[serde(default)]
    attention_bias: bool,
}

#[derive(Clone, Debug, Deserialize)]
struct RopeParameters {
    rope_theta: Option<f64>,
    rope_type: Option<String>,
}

/// The decoder stack, without a language-model head.
pub struct Qwen3 {
    config: Config,
    device: Device,
    dtype: DType,
    embed_tokens: Tensor,
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
    gate_up_proj: Linear,
    down_proj: Linear,
    eps: f64,
}

impl Config {
    fn head_dim(&self) -> usize {
        self.head_dim.unwrap_or(self.hidden_size / self.num_attention_heads.max(1))
    }

    fn theta(&self) -> f64 {
        self.rope_parameters.as_ref().and_then(|p| p.rope_theta).or(self.rope_theta).unwrap_or(1e6)
    }

    /// Refuses what this implementation does not compute.
    pub fn check(&self) -> std::result::Result<(), String> {
        let (heads, kv_heads) = (self.num_attention_heads, self.num_key_value_heads);
        if heads == 0 || kv_heads == 0 || !heads.is_multiple_of(kv_heads) {
            return Err(format!(
                "{heads} attention heads do not divide into {kv_heads} key-value heads"
            ));
        }
        if self.num_hidden_layers == 0 || self.head_dim() == 0 || !self.head_dim().is_multiple_of(2)
        {
            return Err("num_hidden_layers must be positive and head_dim even".into());
        }
        if self.attention_bias {
            return Err("attention_bias is not supported; Qwen3 has none".into());
        }
        match self.rope_parameters.as_ref().and_then(|p| p.rope_type.as_deref()) {
            None | Some("default") => Ok(()),
            Some(other) => {
                Err(format!("rope_type '{other}' is not supported; Qwen3 uses 'default'"))
            }
        }
    }
}

impl Qwen3 {
    /// Reads the tensors, with or without the `model.` prefix.
    pub fn load(config: Config, weights: &Weights) -> std::result::Result<Self, LoadError> {
        let model = if weights.has("model.embed_tokens.weight") {
            weights.pp("model")
        } else {
            weights.clone()
        };
        let layers = (0..config.num_hidden_layers)
            .map(|i| Layer::load(&config, &model.pp("layers").pp(i)))
            .collect::<std::result::Result<_, _>>()?;
        Ok(Self {
            device: weights.device().clone(),
            dtype: weights.dtype(),
            embed_tokens: model
                .get("embed_tokens.weight", &[config.vocab_size, config.hidden_size])?,
            layers,
            norm: model.get("norm.weight", &[config.hidden_size])?,
            config,
        })
    }

    pub fn config(&self) -> &Config {
        &self.config
    }

    /// `output_hidden_states[hidden_layer]`, shape `(tokens, hidden_size)`: 0 is the embedding
    /// table's output, `num_hidden_layers` the last layer's after the final norm. Layers that
    /// are not needed are not run.
    pub fn hidden_states(&self, ids: &[u32], hidden_layer: usize) -> Result<Tensor> {
        let ids = Tensor::new(ids, &self.device)?;
        let mut x = self.embed_tokens.index_select(&ids, 0)?;
        let rope = self.rope(x.dim(0)?)?;
        for layer in &self.layers[..hidden_layer] {
            x = layer.forward(&x, &rope)?;
        }
        if hidden_layer == self.layers.len() {
            x = rms_norm(&x, &self.norm, self.config.rms_norm_eps)?;
        }
        Ok(x)
    }

    pub fn dtype(&self) -> DType {
        self.dtype
    }

    pub fn device(&self) -> &Device {
        &self.device
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
            qkv_proj: Linear::fused(&[
                attn.get("q_proj.weight", &[heads * dim, hidden])?,
                attn.get("k_proj.weight", &[kv_heads * dim, hidden])?,
                attn.get("v_proj.weight", &[kv_heads * dim, hidden])?,
            ])?,
            qk_norm: QkNorm {
                q_weight: attn.get("q_norm.weight", &[dim])?,
                k_weight: attn.get("k_norm.weight", &[dim])?,
                eps,
                pairing: Pairing::Halves,
            },
            attention: Attention { heads, kv_heads, head_dim: dim, mask: Mask::Causal },
            o_proj: Linear::new(attn.get("o_proj.weight", &[hidden, heads * dim])?, None),
            post_attention_layernorm: weights.get("post_attention_layernorm.weight", &[hidden])?,
            gate_up_proj: Linear::fused(&[
                mlp.get("gate_proj.weight", &[ffn, hidden])?,
                mlp.get("up_proj.weight", &[ffn, hidden])?,
            ])?,
            down_proj: Linear::new(mlp.get("down_proj.weight", &[hidden, ffn])?, None),
            eps,
        })
    }

    fn forward(&self, x: &Tensor, rope: &Rope) -> Result<Tensor> {
        let tokens = x.dim(0)?;
        let normed = rms_norm(x, &self.input_layernorm, self.eps)?;
        let qkv = self.qk_norm.forward(&self.attention, &self.qkv_proj.forward(&normed)?, rope)?;
        let x = (x + self.o_proj.forward(&self.attention.forward(&qkv, &[tokens])?)?)?;
        let normed = rms_norm(&x, &self.post_attention_layernorm, self.eps)?;
        &x + self.down_proj.forward(&swiglu(&self.gate_up_proj.forward(&normed)?)?)?
    }
}
