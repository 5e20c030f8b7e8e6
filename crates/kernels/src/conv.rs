//! Convolutions on channels-last pictures, with the norm before them and the residual after them.

use std::sync::Arc;

use candle_core::{DType, Result, Tensor};

use crate::{
    accelerated::{self, ConvKernel},
    composed,
    cpu::conv::{self, Affine, ConvShape},
    host::{self, Host},
};

/// GroupNorm over `(n, height, width, channels)`.
#[derive(Clone, Debug)]
pub struct GroupNorm {
    pub groups: usize,
    /// `(channels)` each.
    pub weight: Tensor,
    pub bias: Tensor,
    pub eps: f64,
}

/// What a convolution reads.
#[derive(Clone, Copy, Debug)]
pub struct ConvInput<'a> {
    /// `(n, height, width, channels)`.
    pub x: &'a Tensor,
    /// Normed and passed through SiLU first.
    pub norm: Option<&'a GroupNorm>,
    /// Doubled in both directions first (nearest neighbour).
    pub upsample: bool,
}

/// A convolution of 1x1, or of 3x3 with a border of zeros.
#[derive(Clone, Debug)]
pub struct Conv2d {
    /// `(out, in, k, k)`.
    weight: Tensor,
    /// `(out)`.
    bias: Tensor,
    stride: usize,
    /// The weight as the CPU kernel reads it: `(k, k, in, out)`.
    packed: Option<Arc<[f32]>>,
    /// The weight as the device's kernel reads it.
    kernel: Option<Arc<dyn ConvKernel>>,
}

impl<'a> ConvInput<'a> {
    /// `x` as it is.
    pub fn plain(x: &'a Tensor) -> Self {
        Self { x, norm: None, upsample: false }
    }

    /// `silu(norm(x))`.
    pub fn normed(x: &'a Tensor, norm: &'a GroupNorm) -> Self {
        Self { x, norm: Some(norm), upsample: false }
    }

    /// `x` at twice its size.
    pub fn upsampled(x: &'a Tensor) -> Self {
        Self { x, norm: None, upsample: true }
    }
}

impl Conv2d {
    /// `weight`: `(out, in, k, k)` with `k` 1 or 3; `bias`: `(out)`. `stride` 2 pads on the right and
    /// below only, as diffusers' `Downsample2D` does.
    ///
    /// # Errors
    ///
    /// Where the device has no memory to lay the weight out anew.
    pub fn new(weight: Tensor, bias: Tensor, stride: usize) -> Result<Self> {
        let packed = if host::is_cpu(&weight) {
            let weight = weight.to_dtype(DType::F32)?.permute((2, 3, 1, 0))?;
            Some(weight.flatten_all()?.to_vec1::<f32>()?.into())
        } else {
            None
        };
        let kernel = match accelerated::of(&weight)? {
            Some(kernels) => Some(kernels.conv2d(&weight, &bias, stride)?),
            None => None,
        };
        Ok(Self { weight, bias, stride, packed, kernel })
    }

    /// The convolution, plus `residual` where there is one; channels last, in the input's type on its
    /// device, which are the weight's. `residual` has the output's shape.
    ///
    /// # Errors
    ///
    /// Where shapes do not fit.
    pub fn forward(&self, input: &ConvInput<'_>, residual: Option<&Tensor>) -> Result<Tensor> {
        let Some(packed) = &self.packed else {
            if let Some(kernel) = &self.kernel
                && let Some(out) = kernel.forward(input, residual)?
            {
                return Ok(out);
            }
            return composed::conv2d(self, input, residual);
        };
        let (n, height, width, c_in) = input.x.dims4()?;
        let (c_out, expected, kernel, _) = self.weight.dims4()?;
        if c_in != expected {
            candle_core::bail!("{c_in} channels for a convolution of {expected}");
        }
        let shape = ConvShape {
            height,
            width,
            c_in,
            c_out,
            kernel,
            stride: self.stride,
            upsample: input.upsample,
        };
        let (out_height, out_width) = shape.out_size();
        let dims = [n, out_height, out_width, c_out];
        if residual.is_some_and(|r| r.dims() != dims) {
            candle_core::bail!("residual does not have the output's shape {dims:?}");
        }
        let x = Host::new(input.x)?;
        let x = x.values()?;
        let affine = input.norm.map(|norm| norm.affine(&x, n, c_in)).transpose()?;
        let bias = Host::new(&self.bias)?;
        let residual = residual.map(Host::new).transpose()?;
        let residual = residual.as_ref().map(Host::values).transpose()?;
        let mut out = vec![0f32; dims.iter().product()];
        conv::conv2d(
            shape,
            &x,
            affine.as_ref(),
            packed,
            &bias.values()?,
            residual.as_deref(),
            &mut out,
        );
        host::output(out, &dims, input.x.dtype())
    }

    pub(crate) fn parameters(&self) -> (&Tensor, &Tensor) {
        (&self.weight, &self.bias)
    }

    pub(crate) fn stride(&self) -> usize {
        self.stride
    }
}

impl GroupNorm {
    /// The norm alone, without an activation: `(n, height, width, channels)` to the same shape and type.
    /// Sums are f32. `channels` is a multiple of `groups`.
    ///
    /// # Errors
    ///
    /// Where shapes do not fit.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        if let Some(kernels) = accelerated::of(x)?
            && let Some(out) = kernels.group_norm(self, x)?
        {
            return Ok(out);
        }
        if !host::is_cpu(x) {
            return composed::group_norm(self, x);
        }
        let (n, _, _, channels) = x.dims4()?;
        let input = Host::new(x)?;
        let input = input.values()?;
        let affine = self.affine(&input, n, channels)?;
        let mut out = vec![0f32; x.elem_count()];
        conv::apply(&affine, &input, channels, &mut out);
        host::output(out, x.dims(), x.dtype())
    }

    /// The norm of these values as a factor and an offset for each picture and channel.
    fn affine(&self, x: &[f32], n: usize, channels: usize) -> Result<Affine> {
        if self.weight.dims() != [channels] || !channels.is_multiple_of(self.groups) {
            candle_core::bail!("group norm of {:?} over {channels} channels", self.weight.dims());
        }
        let (weight, bias) = (Host::new(&self.weight)?, Host::new(&self.bias)?);
        Ok(conv::group_norm(x, n, self.groups, &weight.values()?, &bias.values()?, self.eps))
    }
}
