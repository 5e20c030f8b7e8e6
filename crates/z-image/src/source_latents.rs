//! A picture to draw from, as latents under noise: diffusers' `ZImageImg2ImgPipeline` and, with a mask,
//! `ZImageInpaintPipeline`.

use candle_core::{Device, Tensor};
use llm_dit_engine::image::{GenerateError, Mask, Picture};

use crate::{error::DrawError, parts::Autoencoder, variation::InitialNoise};

/// How far above the noise level a value of a mask must be to be redrawn there, as in InvokeAI.
const ABOVE: f32 = 1e-4;

/// The latents of a picture, and the noise that they are put under.
pub struct SourceLatents {
    clean: Vec<f32>,
    noise: Vec<f32>,
}

/// The part of a picture that is not redrawn.
pub struct Kept {
    source: SourceLatents,
    /// From 0 to 1 for each place of the latents; 1 is redrawn.
    mask: Vec<f32>,
}

impl SourceLatents {
    /// Draws from the picture's posterior and then, as diffusers, the noise. `budget`: bytes that the
    /// autoencoder may take beside its weights.
    ///
    /// # Errors
    ///
    /// [`DrawError`] if the VAE cannot be loaded, if the device fails, or if the posterior does not
    /// have `shape`.
    pub fn draw(
        autoencoder: &mut Autoencoder,
        picture: &Picture,
        shape: [usize; 3],
        noise: &mut InitialNoise,
        budget: u64,
    ) -> Result<Self, DrawError> {
        let count = shape.iter().product::<usize>();
        let posterior = autoencoder.encode::<DrawError>(&pixels(picture)?, budget)?;
        let flat = |x: &Tensor| x.flatten_all()?.to_vec1::<f32>();
        let (mean, logvar) = (flat(&posterior.mean)?, flat(&posterior.logvar)?);
        if mean.len() != count {
            let got = posterior.mean.shape();
            let why = format!("the VAE made {got:?} of {shape:?}");
            return Err(GenerateError::Backend(why).into());
        }
        let (shift, scale) =
            (autoencoder.config().shift_factor as f32, autoencoder.config().scaling_factor as f32);
        let (draw, noise) = (noise.randn(shape), noise.randn(shape));
        let clean = mean.iter().zip(&logvar).zip(&draw).map(|((mean, logvar), draw)| {
            let z = mean + (0.5 * logvar).exp() * draw;
            (z - shift) * scale
        });
        Ok(Self { clean: clean.collect(), noise })
    }

    /// Under as much noise as `sigma` says.
    pub fn at(&self, sigma: f64) -> Vec<f32> {
        (0..self.clean.len()).map(|i| self.value(i, sigma as f32)).collect()
    }

    fn value(&self, i: usize, sigma: f32) -> f32 {
        sigma * self.noise[i] + (1.0 - sigma) * self.clean[i]
    }
}

impl Kept {
    /// `mask` has the size of the picture; the pixel at the upper left of each place speaks for it, as
    /// in torch's `interpolate`.
    pub fn new(source: SourceLatents, mask: &Mask, [_, rows, columns]: [usize; 3]) -> Self {
        let (width, height) = (mask.width as usize, mask.height as usize);
        let at = |row: usize, column: usize| {
            let (x, y) = (column * width / columns.max(1), row * height / rows.max(1));
            f32::from(mask.values.get(y * width + x).copied().unwrap_or_default()) / 255.0
        };
        let places = (0..rows).flat_map(|row| (0..columns).map(move |column| (row, column)));
        Self { source, mask: places.map(|(row, column)| at(row, column)).collect() }
    }

    /// Puts back what is not redrawn in latents that a step has brought to `sigma`.
    pub fn restore(&self, latents: &mut [f32], sigma: f64) {
        let sigma = sigma as f32;
        let places = self.mask.iter().cycle();
        for (i, (value, mask)) in latents.iter_mut().zip(places).enumerate() {
            // A white mask is redrawn in every step, whatever the grid.
            if *mask < 1.0 && *mask < sigma + ABOVE {
                *value = self.source.value(i, sigma);
            }
        }
    }
}

/// `(1, 3, height, width)` in -1 to 1.
fn pixels(picture: &Picture) -> candle_core::Result<Tensor> {
    let values: Vec<f32> =
        picture.rgb.iter().map(|&b| 2.0 * (f32::from(b) / 255.0) - 1.0).collect();
    let (width, height) = (picture.width as usize, picture.height as usize);
    Tensor::from_vec(values, (height, width, 3), &Device::Cpu)?.permute((2, 0, 1))?.unsqueeze(0)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub fn kept(clean: f32, noise: f32, mask: &[u8], [rows, columns]: [usize; 2]) -> Kept {
        let count = rows * columns;
        let source = SourceLatents { clean: vec![clean; count], noise: vec![noise; count] };
        let (width, height) = (8 * columns as u32, 8 * rows as u32);
        // Only the pixels at the upper left of a place are looked at.
        let mut values = vec![99; 64 * count];
        for (i, value) in mask.iter().enumerate() {
            values[(i / columns) * 8 * 8 * columns + (i % columns) * 8] = *value;
        }
        Kept::new(source, &Mask { width, height, values }, [1, rows, columns])
    }

    #[test]
    fn what_is_black_comes_back_under_the_noise_of_the_step() {
        let kept = kept(1.0, 3.0, &[0, 255, 0, 255, 0, 0], [2, 3]);
        for (sigma, expected) in [(1.0, 3.0), (0.25, 1.5), (0.0, 1.0)] {
            let mut latents = vec![7.0; 6];
            kept.restore(&mut latents, sigma);
            assert_eq!(latents, [expected, 7.0, expected, 7.0, expected, expected], "{sigma}");
        }
    }

    #[test]
    fn what_is_grey_is_redrawn_once_the_noise_is_below_it() {
        let kept = kept(1.0, 1.0, &[128, 64, 255, 0], [2, 2]);
        let redrawn = |sigma: f64| {
            let mut latents = vec![7.0; 4];
            kept.restore(&mut latents, sigma);
            latents.iter().map(|value| *value == 7.0).collect::<Vec<_>>()
        };
        assert_eq!(redrawn(1.0), [false, false, true, false]);
        assert_eq!(redrawn(0.5), [true, false, true, false]);
        assert_eq!(redrawn(0.0), [true, true, true, false]);
    }
}
