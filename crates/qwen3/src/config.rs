//! `text_encoder/config.json`, or the shapes of the tensors without one.

use llm_dit_weights::{LoadError, PartConfig, Weights};
use serde::Deserialize;

/// `text_encoder/config.json`.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Config {
    pub vocab_size: usize,
    pub hidden_size: usize,
    pub intermediate_size: usize,
    pub num_hidden_layers: usize,
    pub num_attention_heads: usize,
    pub num_key_value_heads: usize,
    pub head_dim: Option<usize>,
    pub rms_norm_eps: f64,
    /// Where transformers 4 keeps the base of the rotation.
    rope_theta: Option<f64>,
    /// Where transformers 5 keeps it.
    rope_parameters: Option<RopeParameters>,
    pub max_position_embeddings: usize,
    #[serde(default)]
    attention_bias: bool,
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
struct RopeParameters {
    rope_theta: Option<f64>,
    rope_type: Option<String>,
}

impl Config {
    /// Qwen3-4B, Z-Image's text encoder.
    pub fn qwen3_4b() -> Self {
        Self {
            vocab_size: 151_936,
            hidden_size: 2560,
            intermediate_size: 9728,
            num_hidden_layers: 36,
            num_attention_heads: 32,
            num_key_value_heads: 8,
            head_dim: Some(128),
            rms_norm_eps: 1e-6,
            rope_theta: Some(1e6),
            rope_parameters: None,
            max_position_embeddings: 40_960,
            attention_bias: false,
        }
    }

    /// Width of one attention head. Without a value in the configuration it is `hidden_size /
    /// num_attention_heads`.
    pub fn head_dim(&self) -> usize {
        self.head_dim.unwrap_or(self.hidden_size / self.num_attention_heads.max(1))
    }

    /// Base of the rotation.
    pub fn theta(&self) -> f64 {
        self.rope_parameters.as_ref().and_then(|p| p.rope_theta).or(self.rope_theta).unwrap_or(1e6)
    }
}

impl PartConfig for Config {
    /// What no shape tells is as in Qwen3-4B.
    fn of(weights: &Weights) -> Result<Self, LoadError> {
        let shape = |name: &str, axis: usize| {
            let path = || weights.path().to_owned();
            let cause = || format!("it has no tensor '{name}' of a Qwen3 text encoder");
            let size = weights.shape(name).and_then(|s| s.get(axis).copied());
            size.ok_or_else(|| LoadError::Invalid { path: path(), cause: cause() })
        };
        let layer = |name: &str| shape(&format!("layers.0.{name}.weight"), 0);
        let head_dim = layer("self_attn.q_norm")?;
        Ok(Self {
            vocab_size: shape("embed_tokens.weight", 0)?,
            hidden_size: shape("embed_tokens.weight", 1)?,
            intermediate_size: layer("mlp.gate_proj")?,
            num_hidden_layers: weights.pp("layers").count(),
            num_attention_heads: layer("self_attn.q_proj")? / head_dim.max(1),
            num_key_value_heads: layer("self_attn.k_proj")? / head_dim.max(1),
            head_dim: Some(head_dim),
            rms_norm_eps: 1e-6,
            rope_theta: Some(1e6),
            rope_parameters: None,
            max_position_embeddings: 40_960,
            attention_bias: false,
        })
    }

    fn same_shapes(&self, other: &Self) -> bool {
        let shapes = |c: &Self| {
            let heads = (c.num_attention_heads, c.num_key_value_heads, c.head_dim());
            (c.vocab_size, c.hidden_size, c.intermediate_size, c.num_hidden_layers, heads)
        };
        shapes(self) == shapes(other)
    }

    fn check(&self) -> Result<(), String> {
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
