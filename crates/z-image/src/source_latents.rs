//! A picture to draw from, as latents under noise: diffusers' `ZImageImg2ImgPipeline`.

use candle_core::{Device, Tensor};
use llm_dit_engine::image::{GenerateError, Picture};

use crate::{error::DrawError, parts::Autoencoder, variation::InitialNoise};

/// `(1 - sigma) * z + sigma * noise`, where `z` is drawn from the picture's posterior. The two
/// draws follow each other in diffusers' order, posterior first. `budget`: bytes that the autoencoder
/// may take beside its weights.
///
/// # Errors
///
/// [`DrawError`] if the VAE cannot be loaded, if the device fails, or if the posterior does not
/// have `shape`.
pub fn noisy(
    autoencoder: &mut Autoencoder,
    picture: &Picture,
    shape: [usize; 3],
    sigma: f64,
    noise: &mut InitialNoise,
    budget: u64,
) -> Result<Vec<f32>, DrawError> {
    let count = shape.iter().product();
    let posterior = autoencoder.encode::<DrawError>(&pixels(picture)?, budget)?;
    let flat = |x: &Tensor| x.flatten_all()?.to_vec1::<f32>();
    let (mean, logvar) = (flat(&posterior.mean)?, flat(&posterior.logvar)?);
    if mean.len() != count {
        let got = posterior.mean.shape();
        return Err(GenerateError::Backend(format!("the VAE made {got:?} of {shape:?}")).into());
    }
    let (shift, scale) =
        (autoencoder.config().shift_factor as f32, autoencoder.config().scaling_factor as f32);
    let (draw, over, sigma) = (noise.randn(shape), noise.randn(shape), sigma as f32);
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

/// `(1, 3, height, width)` in -1 to 1.
fn pixels(picture: &Picture) -> candle_core::Result<Tensor> {
    let values: Vec<f32> =
        picture.rgb.iter().map(|&b| 2.0 * (f32::from(b) / 255.0) - 1.0).collect();
    let (width, height) = (picture.width as usize, picture.height as usize);
    Tensor::from_vec(values, (height, width, 3), &Device::Cpu)?.permute((2, 0, 1))?.unsqueeze(0)
}
