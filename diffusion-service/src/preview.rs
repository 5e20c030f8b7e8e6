//! A small picture of an image in progress: latents through a linear map, without the VAE.
//!
//! The engine only hands out a prediction of the clean latents. Everything in here runs on other
//! threads.

use bytes::Bytes;
use image::{
    ExtendedColorType, ImageEncoder as _, RgbImage, codecs::jpeg::JpegEncoder, imageops,
    imageops::FilterType,
};

use crate::engine::{LatentMap, Picture, PreviewOptions, X0Prediction};

/// What [`encode`] makes.
pub const MEDIA_TYPE: &str = "image/jpeg";

/// A preview has few edges to spoil, and is looked at for a second.
const QUALITY: u8 = 80;

/// A JPEG file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Preview {
    /// The forward pass that it was guessed from, and how many there are.
    pub step: u32,
    pub total: u32,
    pub width: u32,
    pub height: u32,
    pub jpeg: Bytes,
}

/// From guessed latents of this shape to a small file. `None` when they do not fit each other.
pub fn encode(
    map: &LatentMap,
    shape: [usize; 3],
    guess: &X0Prediction,
    options: PreviewOptions,
) -> Option<Preview> {
    let Picture { width, height, rgb } = map.picture(shape, &guess.clean)?;
    let picture = shrink(RgbImage::from_raw(width, height, rgb)?, options.max_side());
    let (width, height) = picture.dimensions();
    let mut jpeg = Vec::new();
    JpegEncoder::new_with_quality(&mut jpeg, QUALITY)
        .write_image(&picture, width, height, ExtendedColorType::Rgb8)
        .ok()?;
    let (step, total) = (guess.step.index, guess.step.total);
    Some(Preview { step, total, width, height, jpeg: jpeg.into() })
}

fn shrink(picture: RgbImage, max_side: u32) -> RgbImage {
    let (width, height) = picture.dimensions();
    let longest = width.max(height);
    if longest <= max_side {
        return picture;
    }
    let side = |side: u32| {
        let exact = f64::from(side) * f64::from(max_side) / f64::from(longest);
        (exact.round() as u32).max(1)
    };
    imageops::resize(&picture, side(width), side(height), FilterType::Triangle)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::engine::Step;

    fn encode_noise(rows: usize, cols: usize, max_side: u32) -> Preview {
        let map = LatentMap::flux();
        let shape = [map.channels(), rows, cols];
        let mut state = 1u64;
        let clean = (0..shape.iter().product())
            .map(|_: usize| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                (state >> 40) as f32 / 4e6 - 2.0
            })
            .collect();
        let step = Step { index: 2, total: 8, duration: Duration::ZERO };
        let options = PreviewOptions::new(1, max_side).expect("some");
        encode(&map, shape, &X0Prediction { step, clean }, options).expect("a preview")
    }

    #[test]
    fn a_preview_keeps_its_proportions_and_is_never_enlarged() {
        let size = |rows, cols, max_side| {
            let preview = encode_noise(rows, cols, max_side);
            let read = image::load_from_memory(&preview.jpeg).expect("a JPEG").into_rgb8();
            assert_eq!(read.dimensions(), (preview.width, preview.height));
            (preview.width, preview.height)
        };
        assert_eq!(size(24, 40, 0), (40, 24));
        assert_eq!(size(24, 40, 1000), (40, 24));
        assert_eq!(size(24, 40, 20), (20, 12));
        assert_eq!(size(1024, 16, 0), (4, 256));
        assert_eq!(size(1024, 1, 8), (1, 8));
    }

    /// The worst that there is: noise in every pixel.
    #[test]
    fn no_preview_is_larger_than_the_wire_promises() {
        let preview = encode_noise(256, 256, 0);
        println!("{} bytes", preview.jpeg.len());
        assert!(preview.jpeg.len() <= 64 * 1024, "{} bytes", preview.jpeg.len());
    }
}
