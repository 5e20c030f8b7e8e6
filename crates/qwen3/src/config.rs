//! `text_encoder/config.json`, or the shapes of the tensors without one.

use llm_dit_kernels::composed::MOST_SCORES;
use llm_dit_weights::{
    Kind, Library, LoadError, PartConfig, Rule, Schema, Weights,
    metadata::{Metadata, Value},
};
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
    /// The same under its old name.
    rope_scaling: Option<RopeParameters>,
    pub max_position_embeddings: usize,
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
struct RopeParameters {
    rope_theta: Option<f64>,
}

/// The rotation that Qwen3 was trained with. Others stretch it to longer texts.
static ROPE: Schema = Schema {
    keys: &[
        ("rope_theta", Rule::Read(Kind::Number)),
        ("rope_type", Rule::Only(&["\"default\"", "null"])),
        ("type", Rule::Only(&["\"default\"", "null"])),
    ],
    library: Library::None,
};

/// The library's own base, for a configuration that names none.
const DEFAULT_THETA: f64 = 1e4;
/// Likewise the width of a head.
const DEFAULT_HEAD_DIM: usize = 128;

/// Tokens of a long prompt, for which memory is planned.
const TOKENS: u64 = 512;

impl Config {
    /// Bytes that a long prompt takes beside the weights: the sum so far, its norms, queries, keys,
    /// values and the result; gates, ups and their product; a score for each pair of tokens in f32
    /// and rounded, since not every device has a kernel for this.
    pub fn encode_bytes(&self, value_bytes: usize) -> u64 {
        let (hidden, inner) = (self.hidden_size as u64, self.intermediate_size as u64);
        let values = TOKENS * (8 * hidden + 3 * inner);
        let scores = self.num_attention_heads as u64 * TOKENS * TOKENS;
        let scores = scores.min(MOST_SCORES as u64);
        // Norms are computed in f32.
        values * value_bytes as u64 + TOKENS * hidden * 8 + scores * (8 + value_bytes as u64)
    }

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
            rope_scaling: None,
            max_position_embeddings: 40_960,
        }
    }

    /// Width of one attention head.
    pub fn head_dim(&self) -> usize {
        self.head_dim.unwrap_or(DEFAULT_HEAD_DIM)
    }

    /// Base of the rotation.
    pub fn theta(&self) -> f64 {
        self.thetas().next().unwrap_or(DEFAULT_THETA)
    }

    /// Wherever it is named.
    fn thetas(&self) -> impl Iterator<Item = f64> {
        let tables = [&self.rope_scaling, &self.rope_parameters].into_iter().flatten();
        tables.filter_map(|table| table.rope_theta).chain(self.rope_theta)
    }
}

/// What a GGUF file says that shapes do not show.
#[derive(Default)]
struct Told {
    head_dim: Option<usize>,
    eps: Option<f64>,
    theta: Option<f64>,
    positions: Option<usize>,
}

impl Told {
    /// # Errors
    ///
    /// Where the file is of a model that is computed in another way, or a value is none.
    fn read(metadata: &Metadata) -> Result<Self, String> {
        let architecture = metadata.architecture().unwrap_or(ARCHITECTURE);
        if architecture.starts_with(VISION) {
            return Err(format!(
                "it is {architecture}, a model for pictures and text, whose weights are not those that Z-Image was trained with; use a GGUF file of Qwen3-4B"
            ));
        }
        let key = |name: &str| format!("{architecture}.{name}");
        let no = |key: &str, value: &Value| format!("its {key} is {value}");
        let whole = |name: &str| {
            let key = key(name);
            let Some(value) = metadata.get(&key) else { return Ok(None) };
            let number = value.whole().and_then(|n| usize::try_from(n).ok()).filter(|n| *n > 0);
            number.map(Some).ok_or_else(|| no(&key, value))
        };
        let float = |name: &str| {
            let key = key(name);
            let Some(value) = metadata.get(&key) else { return Ok(None) };
            let number = value.float().filter(|n| n.is_finite() && *n > 0.0);
            number.map(Some).ok_or_else(|| no(&key, value))
        };
        let scaling = key("rope.scaling.type");
        if let Some(value) = metadata.get(&scaling).filter(|value| value.text() != Some("none")) {
            return Err(format!(
                "its {scaling} is {value}, which stretches the text encoder to longer texts than Z-Image was trained with; use a file without it"
            ));
        }
        Ok(Self {
            head_dim: whole("attention.key_length")?,
            eps: float("attention.layer_norm_rms_epsilon")?.map(rounded),
            theta: float("rope.freq_base")?,
            positions: whole("context_length")?,
        })
    }
}

/// The number that was written as f32, as it was meant: 1e-6, not 9.99999997e-7.
fn rounded(value: f64) -> f64 {
    let narrow = value as f32;
    if f64::from(narrow) == value { narrow.to_string().parse().unwrap_or(value) } else { value }
}

/// What files of Qwen3 call it, and those of Qwen3-VL, whose text half has the same tensors.
const ARCHITECTURE: &str = "qwen3";
const VISION: &str = "qwen3vl";

impl PartConfig for Config {
    /// `Qwen3Config` of transformers.
    const SCHEMA: Schema = Schema {
        keys: &[
            ("model_type", Rule::Only(&["\"qwen3\""])),
            ("vocab_size", Rule::Needed(Kind::Whole)),
            ("hidden_size", Rule::Needed(Kind::Whole)),
            ("intermediate_size", Rule::Needed(Kind::Whole)),
            ("num_hidden_layers", Rule::Needed(Kind::Whole)),
            ("num_attention_heads", Rule::Needed(Kind::Whole)),
            ("num_key_value_heads", Rule::Needed(Kind::Whole)),
            ("head_dim", Rule::Read(Kind::Whole)),
            ("hidden_act", Rule::Only(&["\"silu\"", "\"swish\""])),
            ("max_position_embeddings", Rule::Needed(Kind::Whole)),
            ("rms_norm_eps", Rule::Needed(Kind::Number)),
            ("rope_theta", Rule::Read(Kind::Number)),
            ("rope_parameters", Rule::Read(Kind::Table(&ROPE))),
            ("rope_scaling", Rule::Read(Kind::Table(&ROPE))),
            ("attention_bias", Rule::Only(&["false", "null"])),
            ("use_sliding_window", Rule::Only(&["false", "null"])),
            ("layer_types", Rule::Each(&["\"full_attention\""])),
            // Without a sliding window, these two say nothing.
            ("sliding_window", Rule::Ignored),
            ("max_window_layers", Rule::Ignored),
            // About training, about speed, and about the head that writes text.
            ("attention_dropout", Rule::Ignored),
            ("initializer_range", Rule::Ignored),
            ("use_cache", Rule::Ignored),
            ("tie_word_embeddings", Rule::Ignored),
        ],
        library: Library::Transformers,
    };

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
        let told = match weights.metadata() {
            Some(metadata) => Told::read(metadata)
                .map_err(|cause| LoadError::Invalid { path: weights.path().to_owned(), cause })?,
            None => Told::default(),
        };
        if let Some(found) = told.head_dim.filter(|found| *found != head_dim) {
            let cause =
                format!("its attention.key_length is {found}, but attn_q_norm has {head_dim}");
            return Err(LoadError::Invalid { path: weights.path().to_owned(), cause });
        }
        Ok(Self {
            vocab_size: shape("embed_tokens.weight", 0)?,
            hidden_size: shape("embed_tokens.weight", 1)?,
            intermediate_size: layer("mlp.gate_proj")?,
            num_hidden_layers: weights.pp("layers").count(),
            num_attention_heads: layer("self_attn.q_proj")? / head_dim.max(1),
            num_key_value_heads: layer("self_attn.k_proj")? / head_dim.max(1),
            head_dim: Some(head_dim),
            rms_norm_eps: told.eps.unwrap_or(1e-6),
            rope_theta: Some(told.theta.unwrap_or(1e6)),
            rope_parameters: None,
            rope_scaling: None,
            max_position_embeddings: told.positions.unwrap_or(40_960),
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
        let theta = self.theta();
        if let Some(other) = self.thetas().find(|other| *other != theta) {
            return Err(format!("it has two values of rope_theta, {theta} and {other}; keep one"));
        }
        if theta.is_finite() && theta > 0.0 {
            Ok(())
        } else {
            Err(format!("rope_theta is {theta}; it must be above 0"))
        }
    }
}
