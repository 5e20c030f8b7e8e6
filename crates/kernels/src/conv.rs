//! Convolutions on channels-last pictures, with the norm before them and the residual after them.

use std::sync::Arc;

use candle_core::{DType, Result, Tensor};

use crate::{
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
    /// The weight as the GPU's kernel reads it.
    #[cfg(feature = "cuda")]
    gpu: Option<crate::cuda::ConvWeights>,
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
    /// `stride` 2 pads on the right and below only, as diffusers' `Downsample2D` does.
    pub fn new(weight: Tensor, bias: Tensor, stride: usize) -> Result<Self> {
        let packed = if host::is_cpu(&weight) {
            let weight = weight.to_dtype(DType::F32)?.permute((2, 3, 1, 0))?;
            Some(weight.flatten_all()?.to_vec1::<f32>()?.into())
        } else {
            None
        };
        Ok(Self {
            #[cfg(feature = "cuda")]
            gpu: if stride == 1 { crate::cuda::ConvWeights::new(&weight, &bias)? } else { None },
            weight,
            bias,
            stride,
            packed,
        })
    }

    /// The convolution, plus `residual` where there is one; channels last.
    pub fn forward(&self, input: &ConvInput<'_>, residual: Option<&Tensor>) -> Result<Tensor> {
        let Some(packed) = &self.packed else {
            #[cfg(feature = "cuda")]
            if let Some(out) = self.forward_gpu(input, residual)? {
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

    #[cfg(feature = "cuda")]
    fn forward_gpu(
        &self,
        input: &ConvInput<'_>,
        residual: Option<&Tensor>,
    ) -> Result<Option<Tensor>> {
        use crate::cuda::{Gpu, Upsampling};

        let Some(gpu) = Gpu::of(input.x)? else { return Ok(None) };
        let normed = input.norm.map(|norm| gpu.group_norm(norm, input.x, true)).transpose()?;
        let x = match &normed {
            None => input.x,
            Some(Some(normed)) => normed,
            Some(None) => return Ok(None),
        };
        let (n, height, width, channels) = x.dims4()?;
        match &self.gpu {
            Some(weights) => {
                let upsampling = if input.upsample { Upsampling::Twice } else { Upsampling::No };
                gpu.conv3x3(x, weights, upsampling, residual)
            }
            // One tap is a product of pixels with the weight.
            None if self.weight.dim(2)? == 1 && residual.is_none() && !input.upsample => {
                let outs = self.weight.dim(0)?;
                let weight = self.weight.reshape((outs, channels))?;
                let rows = x.reshape((n * height * width, channels))?;
                let out = gpu.matmul(&rows, &weight, Some(&self.bias), false)?;
                out.map(|out| out.reshape((n, height, width, outs))).transpose()
            }
            None => Ok(None),
        }
    }

    pub(crate) fn parameters(&self) -> (&Tensor, &Tensor) {
        (&self.weight, &self.bias)
    }

    pub(crate) fn stride(&self) -> usize {
        self.stride
    }
}

impl GroupNorm {
    /// The norm alone, without an activation.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        #[cfg(feature = "cuda")]
        if let Some(gpu) = crate::cuda::Gpu::of(x)?
            && let Some(out) = gpu.group_norm(self, x, false)?
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
