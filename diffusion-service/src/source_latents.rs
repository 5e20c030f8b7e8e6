//! A picture to draw from, as latents under noise: diffusers' `ZImageImg2ImgPipeline`.

use std::path::PathBuf;

use candle_core::{Device, Tensor};

use crate::{
    engine::{GenerateError, Picture},
    load_encoder,
    noise::Noise,
    vae,
};

/// The VAE's encoding half, read when the first picture comes and kept from then on: most requests
/// bring none.
pub struct SourceEncoder {
    folder: PathBuf,
    device: Device,
    loaded: Option<vae::Encoder>,
}

impl SourceEncoder {
    /// `folder` is the checkpoint's `vae/`.
    pub fn new(folder: PathBuf, device: Device) -> Self {
        Self { folder, device, loaded: None }
    }

    /// `(1 - sigma) * z + sigma * noise`, where `z` is drawn from the picture's posterior. The two
    /// draws follow each other in diffusers' order, posterior first.
    pub fn noisy(
        &mut self,
        picture: &Picture,
        shape: [usize; 3],
        sigma: f64,
        noise: &mut Noise,
    ) -> Result<Vec<f32>, GenerateError> {
        let count = shape.iter().product();
        let encoder = self.encoder()?;
        let posterior = encoder.encode(&pixels(picture)?)?;
        let flat = |x: &Tensor| x.flatten_all()?.to_vec1::<f32>();
        let (mean, logvar) = (flat(&posterior.mean)?, flat(&posterior.logvar)?);
        if mean.len() != count {
            let got = posterior.mean.shape();
            return Err(GenerateError::Backend(format!("the VAE made {got:?} of {shape:?}")));
        }
        let (shift, scale) =
            (encoder.config().shift_factor as f32, encoder.config().scaling_factor as f32);
        let (draw, over, sigma) = (noise.randn(count), noise.randn(count), sigma as f32);
        Ok(mean
            .iter()
            .zip(&logvar)
            .zip(draw.iter().zip(&over))
            .map(|((mean, logvar), (draw, over))| {
                let z = mean + (0.5 * logvar).exp() * draw;
                sigma * over + (1.0 - sigma) * ((z - shift) * scale)
            })
            .collect())
    }

    fn encoder(&mut self) -> Result<&vae::Encoder, GenerateError> {
        if self.loaded.is_none() {
            let encoder = load_encoder(&self.folder, &self.device)
                .map_err(|e| GenerateError::Backend(e.to_string()))?;
            self.loaded = Some(encoder);
        }
        self.loaded.as_ref().ok_or_else(|| GenerateError::Backend("no VAE encoder".into()))
    }
}

/// `(1, 3, height, width)` in -1 to 1.
fn pixels(picture: &Picture) -> candle_core::Result<Tensor> {
    let values: Vec<f32> =
        picture.rgb.iter().map(|&b| 2.0 * (f32::from(b) / 255.0) - 1.0).collect();
    let (width, height) = (picture.width as usize, picture.height as usize);
    Tensor::from_vec(values, (height, width, 3), &Device::Cpu)?.permute((2, 0, 1))?.unsqueeze(0)
}
