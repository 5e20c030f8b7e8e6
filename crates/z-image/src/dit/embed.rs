//! The edges of the transformer: time, patches in, patches out.

use candle_core::{DType, Device, Result, Tensor};
use llm_dit_kernels::Linear;
use llm_dit_weights::{LoadError, Weights};

use super::{config::PATCH, linear};

/// Sinusoids of the time.
pub const FREQUENCIES: usize = 256;
/// Width between the two layers of the time embedding's MLP.
pub const MID: usize = 1024;

/// `TimestepEmbedder`: sinusoids, then two linear layers with SiLU between them.
pub struct TimestepEmbedder {
    mlp_0: Linear,
    mlp_2: Linear,
    t_scale: f64,
}

impl TimestepEmbedder {
    /// Reads the MLP with output width `out`. `t_scale` multiplies the times.
    ///
    /// # Errors
    ///
    /// [`LoadError`] if a tensor is missing or has another shape.
    pub fn load(
        out: usize,
        t_scale: f64,
        weights: &Weights,
    ) -> std::result::Result<Self, LoadError> {
        Ok(Self {
            mlp_0: linear(&weights.pp("mlp.0"), MID, FREQUENCIES)?,
            mlp_2: linear(&weights.pp("mlp.2"), out, MID)?,
            t_scale,
        })
    }

    /// See [`Dit::negative`](super::Dit::negative).
    #[must_use]
    pub fn without_sides(&self) -> Self {
        let (mlp_0, mlp_2) = (self.mlp_0.without_side(), self.mlp_2.without_side());
        Self { mlp_0, mlp_2, t_scale: self.t_scale }
    }

    /// Times `1 - sigma` to `(items, adaln_dim)`. The sinusoids are f32 whatever the type.
    ///
    /// # Errors
    ///
    /// Fails if the device fails.
    pub fn forward(&self, times: &[f32], device: &Device, dtype: DType) -> Result<Tensor> {
        let half = FREQUENCIES / 2;
        let values: Vec<f32> = times
            .iter()
            .flat_map(|&t| {
                let scaled = t * self.t_scale as f32;
                let angle =
                    move |i: usize| scaled * (-(10_000f32.ln()) * i as f32 / half as f32).exp();
                (0..half).map(move |i| angle(i).cos()).chain((0..half).map(move |i| angle(i).sin()))
            })
            .collect();
        let x = Tensor::from_vec(values, (times.len(), FREQUENCIES), device)?.to_dtype(dtype)?;
        self.mlp_2.forward(&self.mlp_0.forward(&x)?.silu()?)
    }
}

/// `(channels, height, width)` to `(patches, 2 * 2 * channels)`; within a patch row, column, channel.
///
/// # Errors
///
/// Fails unless the latents have three axes, of which `PATCH` divides height and width.
pub fn patchify(latents: &Tensor) -> Result<Tensor> {
    let (channels, height, width) = latents.dims3()?;
    let (rows, cols) = (height / PATCH, width / PATCH);
    latents
        .reshape(&[channels, rows, PATCH, cols, PATCH])?
        .permute(vec![1, 3, 2, 4, 0])?
        .reshape((rows * cols, PATCH * PATCH * channels))
}

/// The inverse of [`patchify`].
///
/// # Errors
///
/// Fails if the shapes do not fit.
pub fn unpatchify(x: &Tensor, channels: usize, height: usize, width: usize) -> Result<Tensor> {
    x.reshape(&[height / PATCH, width / PATCH, PATCH, PATCH, channels])?
        .permute(vec![4, 0, 2, 1, 3])?
        .reshape((channels, height, width))
}
