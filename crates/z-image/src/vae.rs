//! The autoencoder between pixels and latents, as diffusers' `AutoencoderKL` computes it.
//!
//! Activations are channels-last, `(n, height, width, channels)`; latents and pictures keep the
//! field's `(n, channels, height, width)` at the edges.

mod bands;
mod blocks;
mod config;
pub mod names;
mod tensors;
mod tiling;

use candle_core::{DType, Device, Result, Tensor};
use llm_dit_kernels::{Conv2d, ConvInput, GroupNorm};
use llm_dit_weights::{LoadError, Weights};

use bands::{Bands, Layer, Scale, Schedule};
pub use bands::{Cost, Kernels};
use blocks::{DownBlock, MidBlock, UpBlock, conv3x3, group_norm};
pub use config::Config;
pub use tensors::check_encoder;
pub use tiling::Tiling;

/// Latents to pixels.
pub struct Decoder {
    config: Config,
    device: Device,
    dtype: DType,
    conv_in: Conv2d,
    mid_block: MidBlock,
    up_blocks: Vec<UpBlock>,
    conv_norm_out: GroupNorm,
    conv_out: Conv2d,
}

/// Pixels to the posterior over latents.
pub struct Encoder {
    config: Config,
    device: Device,
    dtype: DType,
    conv_in: Conv2d,
    down_blocks: Vec<DownBlock>,
    mid_block: MidBlock,
    conv_norm_out: GroupNorm,
    conv_out: Conv2d,
}

/// A diagonal Gaussian, each `(n, latent_channels, height / 8, width / 8)`, f32.
pub struct Posterior {
    pub mean: Tensor,
    pub logvar: Tensor,
}

impl Decoder {
    /// Reads the tensors of a decoder of this configuration. Dtype and device are those of
    /// `weights`.
    ///
    /// # Errors
    ///
    /// [`LoadError`] if a tensor is missing or has another shape, or if tensors remain that the
    /// model does not know.
    pub fn load(config: Config, weights: &Weights) -> std::result::Result<Self, LoadError> {
        let all = weights;
        let weights = all.pp("decoder");
        let channels: Vec<usize> = config.block_out_channels.iter().rev().copied().collect();
        let (first, last) = (channels[0], channels[channels.len() - 1]);
        let groups = config.norm_num_groups;
        let up_blocks = channels
            .iter()
            .enumerate()
            .map(|(i, &c_out)| {
                let c_in = channels[i.saturating_sub(1)];
                let at = weights.pp("up_blocks").pp(i);
                UpBlock::load(
                    c_in,
                    c_out,
                    config.layers_per_block + 1,
                    i + 1 < channels.len(),
                    groups,
                    &at,
                )
            })
            .collect::<std::result::Result<_, _>>()?;
        let decoder = Self {
            device: weights.device().clone(),
            dtype: weights.dtype(),
            conv_in: conv3x3(config.latent_channels, first, 1, &weights.pp("conv_in"))?,
            mid_block: MidBlock::load(first, groups, &weights.pp("mid_block"))?,
            up_blocks,
            conv_norm_out: group_norm(last, groups, &weights.pp("conv_norm_out"))?,
            conv_out: conv3x3(last, config.out_channels, 1, &weights.pp("conv_out"))?,
            config,
        };
        all.finish(|name| name.starts_with("encoder."))?;
        Ok(decoder)
    }

    /// The VAE's configuration.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The device on which it computes.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// `z`, already divided by the scaling factor and shifted: `(n, latent_channels, h, w)` to
    /// pictures `(n, 3, 8h, 8w)` around -1 to 1, not clamped, f32.
    ///
    /// # Errors
    ///
    /// Fails if the shape does not fit, or if the device fails.
    pub fn decode(&self, z: &Tensor) -> Result<Tensor> {
        let x = channels_last(z, &self.device, self.dtype)?;
        let mut x = self.mid_block.forward(&self.conv_in.forward(&ConvInput::plain(&x), None)?)?;
        for block in &self.up_blocks {
            x = block.forward(x)?;
        }
        let x = self.conv_out.forward(&ConvInput::normed(&x, &self.conv_norm_out), None)?;
        channels_first(&x)
    }

    /// [`Self::decode`] with at most so many bytes on the device beside the weights, as far as that is
    /// possible: [`Tiling::decode_bytes`] tells. The result differs by rounding only.
    ///
    /// # Errors
    ///
    /// As [`Self::decode`].
    pub fn decode_within(&self, z: &Tensor, budget: u64) -> Result<Tensor> {
        let (n, _, height, width) = z.dims4()?;
        let cost = Cost::new(&self.device, self.dtype, n);
        let schedule = Schedule::new(&self.config.decoder_layers(), (height, width), cost, budget);
        if schedule.is_whole() {
            return self.decode(z);
        }
        let x = channels_last(z, &self.device, self.dtype)?;
        let x = self.mid_block.forward(&self.conv_in.forward(&ConvInput::plain(&x), None)?)?;
        let x = Bands::whole(x, self.device.clone())?;
        channels_first(&bands::run(&self.layers(), &schedule, x)?.join()?)
    }

    /// As [`Config::decoder_layers`] lists them.
    fn layers(&self) -> Vec<Layer<'_>> {
        let mut layers = Vec::new();
        for block in &self.up_blocks {
            layers.extend(block.resnets.iter().map(Layer::Resnet));
            layers.extend(block.upsampler.iter().map(|conv| Layer::Conv(conv, Scale::Double)));
        }
        layers.push(Layer::NormConv(&self.conv_norm_out, &self.conv_out));
        layers
    }
}

impl Encoder {
    /// Reads the tensors of an encoder of this configuration. Dtype and device are those of
    /// `weights`.
    ///
    /// # Errors
    ///
    /// [`LoadError`] if a tensor is missing or has another shape, or if tensors remain that the
    /// model does not know.
    pub fn load(config: Config, weights: &Weights) -> std::result::Result<Self, LoadError> {
        let all = weights;
        let weights = all.pp("encoder");
        let channels = config.block_out_channels.clone();
        let (first, last) = (channels[0], channels[channels.len() - 1]);
        let groups = config.norm_num_groups;
        let down_blocks = channels
            .iter()
            .enumerate()
            .map(|(i, &c_out)| {
                let c_in = channels[i.saturating_sub(1)];
                let at = weights.pp("down_blocks").pp(i);
                DownBlock::load(
                    c_in,
                    c_out,
                    config.layers_per_block,
                    i + 1 < channels.len(),
                    groups,
                    &at,
                )
            })
            .collect::<std::result::Result<_, _>>()?;
        let encoder = Self {
            device: weights.device().clone(),
            dtype: weights.dtype(),
            conv_in: conv3x3(config.in_channels, first, 1, &weights.pp("conv_in"))?,
            down_blocks,
            mid_block: MidBlock::load(last, groups, &weights.pp("mid_block"))?,
            conv_norm_out: group_norm(last, groups, &weights.pp("conv_norm_out"))?,
            conv_out: conv3x3(last, 2 * config.latent_channels, 1, &weights.pp("conv_out"))?,
            config,
        };
        all.finish(|name| name.starts_with("decoder."))?;
        Ok(encoder)
    }

    /// The VAE's configuration.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Pictures `(n, 3, height, width)` in -1 to 1; sides are multiples of the scale factor.
    ///
    /// # Errors
    ///
    /// Fails if the shape does not fit, or if the device fails.
    pub fn encode(&self, pictures: &Tensor) -> Result<Posterior> {
        self.posterior(&self.moments(pictures)?)
    }

    /// Both halves of the posterior, one after the other along the channels.
    fn moments(&self, pictures: &Tensor) -> Result<Tensor> {
        let mut x = channels_last(pictures, &self.device, self.dtype)?;
        x = self.conv_in.forward(&ConvInput::plain(&x), None)?;
        for block in &self.down_blocks {
            x = block.forward(x)?;
        }
        self.middle(&x)
    }

    /// What [`Self::encode`] makes with at most so many bytes on the device beside the weights, as far
    /// as that is possible. The result differs by rounding only.
    ///
    /// # Errors
    ///
    /// As [`Self::encode`].
    pub fn encode_within(&self, pictures: &Tensor, budget: u64) -> Result<Posterior> {
        let (n, _, height, width) = pictures.dims4()?;
        let cost = Cost::new(&self.device, self.dtype, n);
        let schedule = Schedule::new(&self.config.encoder_layers(), (height, width), cost, budget);
        if schedule.is_whole() {
            return self.encode(pictures);
        }
        let x = channels_last(pictures, &self.device, self.dtype)?;
        let x = Bands::whole(x, self.device.clone())?;
        let x = bands::run(&self.layers(), &schedule, x)?.into_whole()?;
        self.posterior(&self.middle(&x)?)
    }

    /// As [`Config::encoder_layers`] lists them.
    fn layers(&self) -> Vec<Layer<'_>> {
        let mut layers = vec![Layer::Conv(&self.conv_in, Scale::Same)];
        for block in &self.down_blocks {
            layers.extend(block.resnets.iter().map(Layer::Resnet));
            layers.extend(block.downsampler.iter().map(|conv| Layer::Conv(conv, Scale::Half)));
        }
        layers
    }

    /// From the last block to the moments.
    fn middle(&self, x: &Tensor) -> Result<Tensor> {
        let x = self.mid_block.forward(x)?;
        let x = self.conv_out.forward(&ConvInput::normed(&x, &self.conv_norm_out), None)?;
        channels_first(&x)
    }

    fn posterior(&self, moments: &Tensor) -> Result<Posterior> {
        let half = self.config.latent_channels;
        Ok(Posterior {
            mean: moments.narrow(1, 0, half)?.contiguous()?,
            logvar: moments.narrow(1, half, half)?.clamp(-30.0, 20.0)?,
        })
    }
}

fn channels_last(x: &Tensor, device: &Device, dtype: DType) -> Result<Tensor> {
    x.to_device(device)?.to_dtype(dtype)?.permute((0, 2, 3, 1))?.contiguous()
}

fn channels_first(x: &Tensor) -> Result<Tensor> {
    x.to_dtype(DType::F32)?.permute((0, 3, 1, 2))?.contiguous()
}
