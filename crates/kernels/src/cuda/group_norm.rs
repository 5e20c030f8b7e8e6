//! Group norms of channels-last pictures: by themselves, or as what a convolution does to its input.

use candle_core::{Result, Tensor, cuda_backend::cudarc};
use half::bf16;

use super::{
    Gpu,
    source::Source,
    tensor::{address, blocks, launch},
};
use crate::GroupNorm;

/// Pixels whose sums a block makes at least.
const STRETCH: usize = 256;

/// Vectors of eight channels that a block's threads share.
const MOST_VECTORS: usize = 256;

impl Gpu {
    /// The norm, with SiLU after it if asked.
    pub(super) fn group_norm(
        &self,
        norm: &GroupNorm,
        x: &Tensor,
        activate: bool,
    ) -> Result<Option<Tensor>> {
        let (n, height, width, channels) = x.dims4()?;
        let x = self.dense::<bf16>(x)?;
        let Some(affine) = self.group_affine(norm, &x, 1.0)? else { return Ok(None) };
        let out = self.empty::<bf16>(x.dims())?;
        let vectors = channels / 8;
        let pixels = height * width;
        let total = n * pixels * vectors;
        launch!(
            self,
            self.function(Source::GroupNorm, "group_apply")?,
            blocks((total.div_ceil(256), 1, 1), 256, 0)?,
            address::<bf16>(&x)?,
            address::<f32>(&affine)?,
            address::<bf16>(&out)?,
            total as u64,
            (pixels * vectors) as u64,
            vectors as i32,
            i32::from(activate),
        )?;
        Ok(Some(out))
    }

    /// The norm of `x` as a factor and an offset for each picture and channel, `(n, channels, 2)` in
    /// f32, both times `share`. `x` is dense.
    pub(super) fn group_affine(
        &self,
        norm: &GroupNorm,
        x: &Tensor,
        share: f32,
    ) -> Result<Option<Tensor>> {
        let (n, height, width, channels) = x.dims4()?;
        let vectors = channels / 8;
        if !channels.is_multiple_of(8)
            || vectors > MOST_VECTORS
            || !channels.is_multiple_of(norm.groups)
        {
            return Ok(None);
        }
        let (weight, bias) = (self.dense::<bf16>(&norm.weight)?, self.dense::<bf16>(&norm.bias)?);
        let pixels = height * width;
        // Enough blocks to fill the GPU, of whole rounds of their lanes.
        let lanes = 256 / vectors;
        let most = (8 * self.properties.multiprocessors).div_ceil(n);
        let stretch = pixels.div_ceil(most).max(STRETCH.min(pixels)).next_multiple_of(lanes);
        let stretches = pixels.div_ceil(stretch);
        let partial = self.empty::<f32>(&[n, stretches, channels, 2])?;
        let affine = self.empty::<f32>(&[n, channels, 2])?;
        let in_group = channels / norm.groups;
        launch!(
            self,
            self.function(Source::GroupNorm, "group_sums")?,
            blocks((stretches, n, 1), 256, (lanes * channels * 8) as u32)?,
            address::<bf16>(x)?,
            address::<f32>(&partial)?,
            pixels as i32,
            vectors as i32,
            stretch as i32,
        )?;
        launch!(
            self,
            self.function(Source::GroupNorm, "group_affine")?,
            blocks((norm.groups, n, 1), 256, 0)?,
            address::<f32>(&partial)?,
            address::<bf16>(&weight)?,
            address::<bf16>(&bias)?,
            address::<f32>(&affine)?,
            stretches as i32,
            channels as i32,
            in_group as i32,
            (pixels * in_group) as f64,
            norm.eps as f32,
            share,
        )?;
        Ok(Some(affine))
    }
}
