//! `transformer/config.json`.

use serde::Deserialize;

/// Width of the modulation's input, unless the model itself is narrower.
const ADALN_DIM: usize = 256;
/// Longest rotary axis whose table we are willing to make; Z-Image's have 1536 positions.
const MAX_AXIS: usize = 1 << 16;
/// The one patch size that Z-Image was released with.
pub const PATCH: usize = 2;

/// Hyperparameters under diffusers' names.
#[derive(Clone, Debug, Deserialize)]
pub struct Config {
    #[serde(default = "patch_sizes")]
    all_patch_size: Vec<usize>,
    #[serde(default = "f_patch_sizes")]
    all_f_patch_size: Vec<usize>,
    pub in_channels: usize,
    pub dim: usize,
    pub n_layers: usize,
    pub n_refiner_layers: usize,
    pub n_heads: usize,
    pub n_kv_heads: usize,
    pub norm_eps: f64,
    #[serde(default = "yes")]
    qk_norm: bool,
    pub cap_feat_dim: usize,
    siglip_feat_dim: Option<usize>,
    pub rope_theta: f64,
    pub t_scale: f64,
    pub axes_dims: Vec<usize>,
    pub axes_lens: Vec<usize>,
}

fn patch_sizes() -> Vec<usize> {
    vec![PATCH]
}

fn f_patch_sizes() -> Vec<usize> {
    vec![1]
}

fn yes() -> bool {
    true
}

impl Config {
    pub fn adaln_dim(&self) -> usize {
        self.dim.min(ADALN_DIM)
    }

    /// Values of one patch.
    pub fn patch_dim(&self) -> usize {
        PATCH * PATCH * self.in_channels
    }

    pub fn head_dim(&self) -> usize {
        self.dim / self.n_heads.max(1)
    }

    pub fn ffn_dim(&self) -> usize {
        // int(dim / 3 * 8), in Python's floating point.
        (self.dim as f64 / 3.0 * 8.0) as usize
    }

    /// Refuses what this implementation does not compute.
    pub fn check(&self) -> Result<(), String> {
        let no = |what: String| Err(format!("{what}; Z-Image's released models differ"));
        if !self.all_patch_size.contains(&PATCH) || !self.all_f_patch_size.contains(&1) {
            return no(format!(
                "patch sizes {:?} x {:?} lack 2 x 1",
                self.all_patch_size, self.all_f_patch_size
            ));
        }
        if self.n_heads == 0
            || !self.dim.is_multiple_of(self.n_heads)
            || self.n_kv_heads != self.n_heads
        {
            return no(format!(
                "{} and {} heads for width {}",
                self.n_heads, self.n_kv_heads, self.dim
            ));
        }
        if !self.qk_norm || self.siglip_feat_dim.is_some() {
            return no("qk_norm false or a siglip_feat_dim is not supported".into());
        }
        if self.axes_dims.len() != 3
            || self.axes_lens.len() != 3
            || self.axes_lens.iter().any(|len| !(1..=MAX_AXIS).contains(len))
            || self.axes_dims.iter().any(|d| !d.is_multiple_of(2))
            || self.axes_dims.iter().sum::<usize>() != self.head_dim()
        {
            return no(format!(
                "rotary axes {:?} for heads of {}",
                self.axes_dims,
                self.head_dim()
            ));
        }
        Ok(())
    }
}
