//! Residual blocks, middle attention, changes of size.

use candle_core::{Result, Tensor};
use llm_dit_kernels::{Attention, Conv2d, ConvInput, GroupNorm, Linear, Mask};
use llm_dit_weights::{LoadError, Weights};

type Load<T> = std::result::Result<T, LoadError>;

const EPS: f64 = 1e-6;

/// `ResnetBlock2D` without a time embedding.
pub struct Resnet {
    pub norm1: GroupNorm,
    pub conv1: Conv2d,
    pub norm2: GroupNorm,
    pub conv2: Conv2d,
    /// 1x1, where the number of channels changes.
    pub conv_shortcut: Option<Conv2d>,
}

/// Single-head attention over all pixels.
struct AttentionBlock {
    group_norm: GroupNorm,
    to_qkv: Linear,
    to_out: Linear,
    attention: Attention,
}

/// Resnet, attention, resnet.
pub struct MidBlock {
    resnets: [Resnet; 2],
    attention: AttentionBlock,
}

/// Resnets, then twice the size.
pub struct UpBlock {
    pub resnets: Vec<Resnet>,
    pub upsampler: Option<Conv2d>,
}

/// Resnets, then half the size.
pub struct DownBlock {
    pub resnets: Vec<Resnet>,
    pub downsampler: Option<Conv2d>,
}

/// Reads a 3x3 convolution with bias.
///
/// # Errors
///
/// [`LoadError`] if a tensor is missing or has another shape.
pub fn conv3x3(c_in: usize, c_out: usize, stride: usize, weights: &Weights) -> Load<Conv2d> {
    Ok(Conv2d::new(
        weights.get("weight", &[c_out, c_in, 3, 3])?,
        weights.get("bias", &[c_out])?,
        stride,
    )?)
}

/// Reads a group norm over `channels` channels.
///
/// # Errors
///
/// [`LoadError`] if a tensor is missing or has another shape.
pub fn group_norm(channels: usize, groups: usize, weights: &Weights) -> Load<GroupNorm> {
    let (weight, bias) = (weights.get("weight", &[channels])?, weights.get("bias", &[channels])?);
    Ok(GroupNorm { groups, weight, bias, eps: EPS })
}

impl Resnet {
    fn load(c_in: usize, c_out: usize, groups: usize, weights: &Weights) -> Load<Self> {
        let conv_shortcut = if c_in == c_out {
            None
        } else {
            let at = weights.pp("conv_shortcut");
            Some(Conv2d::new(
                at.get("weight", &[c_out, c_in, 1, 1])?,
                at.get("bias", &[c_out])?,
                1,
            )?)
        };
        Ok(Self {
            norm1: group_norm(c_in, groups, &weights.pp("norm1"))?,
            conv1: conv3x3(c_in, c_out, 1, &weights.pp("conv1"))?,
            norm2: group_norm(c_out, groups, &weights.pp("norm2"))?,
            conv2: conv3x3(c_out, c_out, 1, &weights.pp("conv2"))?,
            conv_shortcut,
        })
    }

    /// The first takes `c_in` channels, the others have `c_out` throughout.
    fn load_all(
        c_in: usize,
        c_out: usize,
        count: usize,
        groups: usize,
        weights: &Weights,
    ) -> Load<Vec<Self>> {
        let weights = weights.pp("resnets");
        (0..count)
            .map(|i| Self::load(if i == 0 { c_in } else { c_out }, c_out, groups, &weights.pp(i)))
            .collect()
    }

    /// `x`: `(n, height, width, c_in)`; the result has `c_out` channels. Takes `x`, so that a wider one
    /// is gone before the result is made.
    ///
    /// # Errors
    ///
    /// Fails if the shape does not fit, or if the device fails.
    pub fn forward(&self, x: Tensor) -> Result<Tensor> {
        let h = self.conv1.forward(&ConvInput::normed(&x, &self.norm1), None)?;
        let residual = match &self.conv_shortcut {
            Some(conv) => conv.forward(&ConvInput::plain(&x), None)?,
            None => x.clone(),
        };
        drop(x);
        self.conv2.forward(&ConvInput::normed(&h, &self.norm2), Some(&residual))
    }
}

impl AttentionBlock {
    fn load(channels: usize, groups: usize, weights: &Weights) -> Load<Self> {
        let (matrix, bias) = ([channels, channels], [channels]);
        let matrices = ["to_q.weight", "to_k.weight", "to_v.weight"].map(|n| (n, &matrix));
        let biases = ["to_q.bias", "to_k.bias", "to_v.bias"].map(|n| (n, &bias[..]));
        let out = weights.pp("to_out.0");
        Ok(Self {
            group_norm: group_norm(channels, groups, &weights.pp("group_norm"))?,
            to_qkv: Linear::new(weights.stack_matrix(&matrices)?, Some(weights.stack(&biases)?)),
            to_out: Linear::new(
                out.matrix("weight", &[channels, channels])?,
                Some(out.get("bias", &[channels])?),
            ),
            attention: Attention {
                heads: 1,
                kv_heads: 1,
                head_dim: channels,
                mask: Mask::Full,
                half: false,
            },
        })
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let (n, height, width, channels) = x.dims4()?;
        let normed = self.group_norm.forward(x)?.reshape((n * height * width, channels))?;
        let qkv = self.to_qkv.forward(&normed)?;
        let attended = self.attention.forward(&qkv, &vec![height * width; n])?;
        x + self.to_out.forward(&attended)?.reshape((n, height, width, channels))?
    }
}

impl MidBlock {
    /// Reads two residual blocks and the attention between them.
    ///
    /// # Errors
    ///
    /// [`LoadError`] if a tensor is missing or has another shape.
    pub fn load(channels: usize, groups: usize, weights: &Weights) -> Load<Self> {
        let resnet =
            |i: usize| Resnet::load(channels, channels, groups, &weights.pp("resnets").pp(i));
        Ok(Self {
            resnets: [resnet(0)?, resnet(1)?],
            attention: AttentionBlock::load(channels, groups, &weights.pp("attentions.0"))?,
        })
    }

    /// `x`: `(n, height, width, channels)`; the result has the same shape.
    ///
    /// # Errors
    ///
    /// Fails if the shape does not fit, or if the device fails.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let x = self.resnets[0].forward(x.clone())?;
        self.resnets[1].forward(self.attention.forward(&x)?)
    }
}

impl UpBlock {
    /// Reads `layers` residual blocks and, if `up`, the upsampler after them.
    ///
    /// # Errors
    ///
    /// [`LoadError`] if a tensor is missing or has another shape.
    pub fn load(
        c_in: usize,
        c_out: usize,
        layers: usize,
        up: bool,
        groups: usize,
        weights: &Weights,
    ) -> Load<Self> {
        let at = weights.pp("upsamplers.0.conv");
        Ok(Self {
            resnets: Resnet::load_all(c_in, c_out, layers, groups, weights)?,
            upsampler: up.then(|| conv3x3(c_out, c_out, 1, &at)).transpose()?,
        })
    }

    /// `x`: `(n, height, width, c_in)`; the result has `c_out` channels and, with an upsampler,
    /// twice the height and width.
    ///
    /// # Errors
    ///
    /// Fails if the shape does not fit, or if the device fails.
    pub fn forward(&self, mut x: Tensor) -> Result<Tensor> {
        for resnet in &self.resnets {
            x = resnet.forward(x)?;
        }
        match &self.upsampler {
            Some(conv) => conv.forward(&ConvInput::upsampled(&x), None),
            None => Ok(x),
        }
    }
}

impl DownBlock {
    /// Reads `layers` residual blocks and, if `down`, the downsampler after them.
    ///
    /// # Errors
    ///
    /// [`LoadError`] if a tensor is missing or has another shape.
    pub fn load(
        c_in: usize,
        c_out: usize,
        layers: usize,
        down: bool,
        groups: usize,
        weights: &Weights,
    ) -> Load<Self> {
        let at = weights.pp("downsamplers.0.conv");
        Ok(Self {
            resnets: Resnet::load_all(c_in, c_out, layers, groups, weights)?,
            downsampler: down.then(|| conv3x3(c_out, c_out, 2, &at)).transpose()?,
        })
    }

    /// `x`: `(n, height, width, c_in)`; the result has `c_out` channels and, with a downsampler,
    /// half the height and width.
    ///
    /// # Errors
    ///
    /// Fails if the shape does not fit, or if the device fails.
    pub fn forward(&self, mut x: Tensor) -> Result<Tensor> {
        for resnet in &self.resnets {
            x = resnet.forward(x)?;
        }
        match &self.downsampler {
            Some(conv) => conv.forward(&ConvInput::plain(&x), None),
            None => Ok(x),
        }
    }
}
