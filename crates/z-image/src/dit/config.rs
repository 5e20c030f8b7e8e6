//! `transformer/config.json`, or the shapes of the tensors without one.

use llm_dit_weights::{Kind, Library, LoadError, PartConfig, Rule, Schema, Weights};
use serde::Deserialize;

/// Width of the modulation's input, unless the model itself is narrower.
const ADALN_DIM: usize = 256;
/// Longest rotary axis whose table we are willing to make; Z-Image's have 1536 positions.
const MAX_AXIS: usize = 1 << 16;
/// The one patch size that Z-Image was released with.
pub const PATCH: usize = 2;

/// Hyperparameters under diffusers' names.
#[derive(Clone, Debug, PartialEq, Deserialize)]
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
    pub cap_feat_dim: usize,
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

impl Config {
    /// Z-Image and Z-Image-Turbo: 6.15 billion parameters.
    pub fn z_image() -> Self {
        Self {
            all_patch_size: patch_sizes(),
            all_f_patch_size: f_patch_sizes(),
            in_channels: 16,
            dim: 3840,
            n_layers: 30,
            n_refiner_layers: 2,
            n_heads: 30,
            n_kv_heads: 30,
            norm_eps: 1e-5,
            cap_feat_dim: 2560,
            rope_theta: 256.0,
            t_scale: 1000.0,
            axes_dims: vec![32, 48, 48],
            axes_lens: vec![1536, 512, 512],
        }
    }

    /// Width of the time embedding.
    pub fn adaln_dim(&self) -> usize {
        self.dim.min(ADALN_DIM)
    }

    /// Values of one patch.
    pub fn patch_dim(&self) -> usize {
        PATCH * PATCH * self.in_channels
    }

    /// Width of one attention head.
    pub fn head_dim(&self) -> usize {
        self.dim / self.n_heads.max(1)
    }

    /// Width of the feed-forward layer.
    pub fn ffn_dim(&self) -> usize {
        // int(dim / 3 * 8), in Python's floating point.
        (self.dim as f64 / 3.0 * 8.0) as usize
    }
}

impl PartConfig for Config {
    /// `ZImageTransformer2DModel` of diffusers.
    const SCHEMA: Schema = Schema {
        keys: &[
            ("_class_name", Rule::Only(&["\"ZImageTransformer2DModel\""])),
            ("all_patch_size", Rule::Read(Kind::Wholes)),
            ("all_f_patch_size", Rule::Read(Kind::Wholes)),
            ("in_channels", Rule::Needed(Kind::Whole)),
            ("dim", Rule::Needed(Kind::Whole)),
            ("n_layers", Rule::Needed(Kind::Whole)),
            ("n_refiner_layers", Rule::Needed(Kind::Whole)),
            ("n_heads", Rule::Needed(Kind::Whole)),
            ("n_kv_heads", Rule::Needed(Kind::Whole)),
            ("norm_eps", Rule::Needed(Kind::Number)),
            ("qk_norm", Rule::Only(&["true"])),
            ("cap_feat_dim", Rule::Needed(Kind::Whole)),
            // Of Z-Image-Omni, which reads pictures through SigLIP.
            ("siglip_feat_dim", Rule::Only(&["null"])),
            ("rope_theta", Rule::Needed(Kind::Number)),
            ("t_scale", Rule::Needed(Kind::Number)),
            ("axes_dims", Rule::Needed(Kind::Wholes)),
            ("axes_lens", Rule::Needed(Kind::Wholes)),
        ],
        library: Library::Diffusers,
    };

    /// What no shape tells is as in every Z-Image that was released.
    fn of(weights: &Weights) -> Result<Self, LoadError> {
        let shape = |name: &str| {
            let path = || weights.path().to_owned();
            let cause = || format!("it has no tensor '{name}' of a Z-Image transformer");
            let shape = weights.shape(name).filter(|s| (1..=2).contains(&s.len()));
            let shape = shape.ok_or_else(|| LoadError::Invalid { path: path(), cause: cause() })?;
            Ok::<_, LoadError>((shape[0], shape.get(1).copied().unwrap_or(0)))
        };
        let (dim, patch_dim) = shape("all_x_embedder.2-1.weight")?;
        let (_, cap_feat_dim) = shape("cap_embedder.1.weight")?;
        let (head_dim, _) = shape("layers.0.attention.norm_q.weight")?;
        let n_heads = dim / head_dim.max(1);
        // 128 values of a head turn by 32 of time, 48 of height and 48 of width.
        let (time, side) = (head_dim / 4, head_dim / 8 * 3);
        Ok(Self {
            all_patch_size: patch_sizes(),
            all_f_patch_size: f_patch_sizes(),
            in_channels: patch_dim / (PATCH * PATCH),
            dim,
            n_layers: weights.pp("layers").count(),
            n_refiner_layers: weights.pp("noise_refiner").count(),
            n_heads,
            n_kv_heads: n_heads,
            norm_eps: 1e-5,
            cap_feat_dim,
            rope_theta: 256.0,
            t_scale: 1000.0,
            axes_dims: vec![time, side, side],
            axes_lens: vec![1536, 512, 512],
        })
    }

    fn same_shapes(&self, other: &Self) -> bool {
        let shapes = |c: &Self| {
            let heads = (c.n_heads, c.n_kv_heads);
            let layers = (c.n_layers, c.n_refiner_layers);
            (c.in_channels, c.dim, layers, heads, c.cap_feat_dim)
        };
        shapes(self) == shapes(other)
    }

    fn check(&self) -> Result<(), String> {
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
