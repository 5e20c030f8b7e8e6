//! Model shapes for random weights.

use clap::ValueEnum;
use llm_dit_qwen3 as qwen3;
use llm_dit_z_image::{dit, vae};

/// The shape of a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Shape {
    /// Takes a second on any machine; tests the benchmark, not the speed.
    Tiny,
    /// The demo model of the repository.
    Demo,
    /// Z-Image-Turbo with Qwen3-4B.
    Turbo,
}

impl Shape {
    /// The model's name in the table.
    pub fn label(self) -> &'static str {
        match self {
            Self::Tiny => "random tiny",
            Self::Demo => "random demo",
            Self::Turbo => "random turbo",
        }
    }

    /// Sides of pictures that make sense for it.
    pub fn sizes(self) -> &'static [u32] {
        match self {
            Self::Tiny => &[64, 128],
            Self::Demo => &[256, 512],
            Self::Turbo => &[512, 768, 1024, 1536, 2048],
        }
    }

    /// The transformer's configuration.
    pub fn dit(self) -> dit::Config {
        let mut config = dit::Config::z_image();
        let (dim, layers, refiners, heads, axes) = match self {
            Self::Turbo => return config,
            Self::Demo => (192, 8, 2, 3, vec![16, 24, 24]),
            Self::Tiny => (64, 2, 1, 2, vec![8, 12, 12]),
        };
        (config.dim, config.cap_feat_dim) = (dim, dim);
        (config.n_layers, config.n_refiner_layers) = (layers, refiners);
        (config.n_heads, config.n_kv_heads) = (heads, heads);
        config.axes_dims = axes;
        config
    }

    /// The VAE's configuration.
    pub fn vae(self) -> vae::Config {
        let mut config = vae::Config::z_image();
        let (channels, groups) = match self {
            Self::Turbo => return config,
            Self::Demo => (vec![32, 48, 80, 112], 16),
            Self::Tiny => (vec![8, 16, 16, 24], 4),
        };
        (config.block_out_channels, config.norm_num_groups) = (channels, groups);
        config.layers_per_block = 1;
        config
    }

    /// The text encoder's configuration.
    pub fn encoder(self) -> qwen3::Config {
        let mut config = qwen3::Config::qwen3_4b();
        let (hidden, ffn, head_dim) = match self {
            Self::Turbo => return config,
            Self::Demo => (192, 384, 64),
            Self::Tiny => (64, 128, 16),
        };
        (config.hidden_size, config.intermediate_size) = (hidden, ffn);
        (config.num_attention_heads, config.num_key_value_heads) = (4, 2);
        (config.num_hidden_layers, config.head_dim) = (3, Some(head_dim));
        // The demo tokenizer's vocabulary.
        config.vocab_size = 4096;
        config
    }
}
