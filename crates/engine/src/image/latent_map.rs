//! The linear map from latents to colours.
//!
//! It belongs to a VAE. For the VAE of Z-Image, which is that of FLUX.1, there are published figures.

use serde::Deserialize;

use super::Picture;

/// `rgb = bias + sum over channels of latent * factors`, from the latents that the transformer
/// works on (scaled and shifted, as `(z - shift_factor) * scaling_factor`) to colours in -1 to 1.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct LatentMap {
    /// Red, green and blue for each latent channel.
    factors: Vec<[f32; 3]>,
    bias: [f32; 3],
}

impl LatentMap {
    /// Red, green and blue for each latent channel, and what they begin at.
    pub fn new(factors: Vec<[f32; 3]>, bias: [f32; 3]) -> Self {
        Self { factors, bias }
    }

    /// The figures of ComfyUI (`comfy/latent_formats.py`, class `Flux`: `latent_rgb_factors` and
    /// `latent_rgb_factors_bias`), whose Z-Image shares that class. It applies them to the same
    /// scaled latents and reads the result as -1 to 1.
    pub fn flux() -> Self {
        Self {
            factors: vec![
                [-0.0346, 0.0244, 0.0681],
                [0.0034, 0.0210, 0.0687],
                [0.0275, -0.0668, -0.0433],
                [-0.0174, 0.0160, 0.0617],
                [0.0859, 0.0721, 0.0329],
                [0.0004, 0.0383, 0.0115],
                [0.0405, 0.0861, 0.0915],
                [-0.0236, -0.0185, -0.0259],
                [-0.0245, 0.0250, 0.1180],
                [0.1008, 0.0755, -0.0421],
                [-0.0515, 0.0201, 0.0011],
                [0.0428, -0.0012, -0.0036],
                [0.0817, 0.0765, 0.0749],
                [-0.1264, -0.0522, -0.1103],
                [-0.0280, -0.0881, -0.0499],
                [-0.1262, -0.0982, -0.0778],
            ],
            bias: [-0.0329, -0.0718, -0.0851],
        }
    }

    /// Latent channels that it is for.
    pub fn channels(&self) -> usize {
        self.factors.len()
    }

    /// Whether no factor is NaN or infinite.
    pub fn is_finite(&self) -> bool {
        self.factors.iter().flatten().chain(&self.bias).all(|x| x.is_finite())
    }

    /// Latents `(channels, rows, cols)` as a picture of one pixel each; `None` when they do not fit.
    pub fn picture(&self, [channels, rows, cols]: [usize; 3], latents: &[f32]) -> Option<Picture> {
        let pixels = rows * cols;
        if channels != self.channels() || latents.len() != channels * pixels || pixels == 0 {
            return None;
        }
        let mut colours = vec![self.bias; pixels];
        for (plane, factors) in latents.chunks_exact(pixels).zip(&self.factors) {
            for (colour, latent) in colours.iter_mut().zip(plane) {
                for (value, factor) in colour.iter_mut().zip(factors) {
                    *value += latent * factor;
                }
            }
        }
        let byte = |x: &f32| (255.0 * (x / 2.0 + 0.5).clamp(0.0, 1.0)).round_ties_even() as u8;
        let rgb = colours.iter().flatten().map(byte).collect();
        Some(Picture { width: u32::try_from(cols).ok()?, height: u32::try_from(rows).ok()?, rgb })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two channels: the first is red less blue, the second is all three.
    fn map() -> LatentMap {
        LatentMap::new(vec![[1.0, 0.0, -1.0], [0.5; 3]], [0.0, -1.0, 0.0])
    }

    #[test]
    fn channels_rows_and_columns_land_where_they_belong() {
        // One row of two, so that rows cannot pass for columns.
        let latents = [1.0, 0.0, /* second channel */ 0.0, 2.0];
        let picture = map().picture([2, 1, 2], &latents).expect("fits");
        assert_eq!((picture.width, picture.height), (2, 1));
        assert_eq!(picture.rgb, [255, 0, 0, 255, 128, 255]);
    }

    #[test]
    fn what_does_not_fit_has_no_picture() {
        assert_eq!(map().picture([2, 1, 2], &[0.0; 5]), None);
        assert_eq!(map().picture([3, 1, 1], &[0.0; 3]), None);
        assert_eq!(map().picture([2, 0, 0], &[]), None);
        let black = map().picture([2, 1, 1], &[f32::NAN, 0.0]).expect("fits");
        assert_eq!(black.rgb, [0, 0, 0], "NaN is no panic");
    }

    /// By FLUX.1's own statistics: mean latents are a middle grey, and each colour's spread over
    /// latents of unit variance is that of a photograph and not of a flat or a blown-out picture.
    #[test]
    fn the_published_figures_are_for_scaled_latents() {
        let map = LatentMap::flux();
        assert_eq!(map.channels(), 16);
        assert!(map.bias.iter().all(|b| b.abs() < 0.2));
        for colour in 0..3 {
            let spread = map.factors.iter().map(|f| f[colour].powi(2)).sum::<f32>().sqrt();
            assert!((0.15..0.6).contains(&spread), "{spread}");
        }
    }
}
