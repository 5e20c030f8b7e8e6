//! `vae/config.json`, or the shapes of the tensors without one.

use llm_dit_weights::{Kind, Library, LoadError, PartConfig, Rule, Schema, Weights};
use serde::{Deserialize, Deserializer};

/// More than any autoencoder has: each halves the sides.
const MAX_LEVELS: usize = 8;

const SCALED: &str = "Z-Image's latents have one scaling_factor and one shift_factor";

/// `vae/config.json`.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Config {
    pub in_channels: usize,
    pub out_channels: usize,
    pub latent_channels: usize,
    pub block_out_channels: Vec<usize>,
    pub layers_per_block: usize,
    pub norm_num_groups: usize,
    pub scaling_factor: f64,
    pub shift_factor: f64,
    /// Pixels along the pictures that it was trained on.
    #[serde(default, deserialize_with = "side")]
    pub sample_size: Option<usize>,
}

/// Of a size that is a list, diffusers reads the first.
fn side<'de, D: Deserializer<'de>>(value: D) -> Result<Option<usize>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Side {
        One(usize),
        Each(Vec<usize>),
    }
    Ok(match Side::deserialize(value)? {
        Side::One(side) => Some(side),
        Side::Each(sides) => sides.first().copied(),
    })
}

impl Config {
    /// The one that Z-Image was released with.
    pub fn z_image() -> Self {
        Self {
            in_channels: 3,
            out_channels: 3,
            latent_channels: 16,
            block_out_channels: vec![128, 256, 512, 512],
            layers_per_block: 2,
            norm_num_groups: 32,
            scaling_factor: 0.3611,
            shift_factor: 0.1159,
            sample_size: Some(1024),
        }
    }

    /// Pixels a latent in each direction: 8 for four levels.
    pub fn scale_factor(&self) -> usize {
        1 << (self.block_out_channels.len().max(1) - 1)
    }
}

impl PartConfig for Config {
    /// `AutoencoderKL` of diffusers, as far as Z-Image's is one.
    const SCHEMA: Schema = Schema {
        keys: &[
            ("_class_name", Rule::Only(&["\"AutoencoderKL\""])),
            ("in_channels", Rule::Needed(Kind::Whole)),
            ("out_channels", Rule::Needed(Kind::Whole)),
            ("down_block_types", Rule::Each(&["\"DownEncoderBlock2D\""])),
            ("up_block_types", Rule::Each(&["\"UpDecoderBlock2D\""])),
            ("block_out_channels", Rule::Needed(Kind::Wholes)),
            ("layers_per_block", Rule::Needed(Kind::Whole)),
            // Two names of one function.
            ("act_fn", Rule::Only(&["\"silu\"", "\"swish\""])),
            ("latent_channels", Rule::Needed(Kind::Whole)),
            ("norm_num_groups", Rule::Needed(Kind::Whole)),
            ("sample_size", Rule::Read(Kind::Side)),
            ("scaling_factor", Rule::Needed(Kind::Number)),
            ("shift_factor", Rule::Needed(Kind::Number)),
            ("latents_mean", Rule::Never(SCALED)),
            ("latents_std", Rule::Never(SCALED)),
            // About f16, for which there is `--vae-dtype`.
            ("force_upcast", Rule::Ignored),
            ("use_quant_conv", Rule::Must(&["false"])),
            ("use_post_quant_conv", Rule::Must(&["false"])),
            ("mid_block_add_attention", Rule::Only(&["true"])),
        ],
        library: Library::Diffusers,
    };

    /// What no shape tells is as in the autoencoder that Z-Image was released with.
    fn of(weights: &Weights) -> Result<Self, LoadError> {
        let shape = |name: &str, axis: usize| {
            let path = || weights.path().to_owned();
            let cause = || format!("it has no tensor '{name}' of an autoencoder");
            let size = weights.shape(name).and_then(|s| s.get(axis).copied());
            size.ok_or_else(|| LoadError::Invalid { path: path(), cause: cause() })
        };
        let up_blocks = weights.pp("decoder.up_blocks");
        // From the one that makes pixels, as the configuration lists them.
        let block_out_channels = (0..up_blocks.count())
            .rev()
            .map(|i| shape(&format!("decoder.up_blocks.{i}.resnets.0.conv1.weight"), 0))
            .collect::<Result<Vec<_>, _>>()?;
        // The decoder has one more in each block.
        let resnets = up_blocks.pp("0.resnets").count();
        Ok(Self {
            in_channels: 3,
            out_channels: shape("decoder.conv_out.weight", 0)?,
            latent_channels: shape("decoder.conv_in.weight", 1)?,
            block_out_channels,
            layers_per_block: resnets.saturating_sub(1),
            norm_num_groups: 32,
            scaling_factor: 0.3611,
            shift_factor: 0.1159,
            sample_size: Some(1024),
        })
    }

    fn same_shapes(&self, other: &Self) -> bool {
        let shapes = |c: &Self| {
            let channels = (c.in_channels, c.out_channels, c.latent_channels);
            (channels, c.block_out_channels.clone(), c.layers_per_block)
        };
        shapes(self) == shapes(other)
    }

    fn check(&self) -> Result<(), String> {
        let groups = self.norm_num_groups;
        if self.block_out_channels.len() > MAX_LEVELS {
            return Err(format!("{} levels are too many", self.block_out_channels.len()));
        }
        if self.out_channels != 3 || self.in_channels != 3 {
            return Err("the autoencoder must read and write 3 channels".into());
        }
        if groups == 0
            || self.block_out_channels.is_empty()
            || self.block_out_channels.iter().any(|c| *c == 0 || !c.is_multiple_of(groups))
        {
            return Err(format!(
                "channels {:?} do not divide into {groups} groups",
                self.block_out_channels
            ));
        }
        Ok(())
    }
}
