//! Masks: which part of a picture is redrawn. White is redrawn, black is kept.

use std::io::Cursor;

use bytes::Bytes;
use image::{DynamicImage, GrayImage, ImageFormat, Luma, imageops};

use crate::{SourceError, decode, resize::resize_gray};

/// So near to black or white a value counts as that: JPEG does not keep values exactly.
const NEAR: u8 = 8;
/// The first value that is white, where there are no others than black and white.
const WHITE: u8 = 128;

/// The mask of a picture, as its file has it.
#[derive(Clone, Debug)]
pub struct MaskImage {
    values: GrayImage,
    /// Whether there is grey in it.
    is_soft: bool,
}

/// A mask at the size at which it is used.
pub(crate) struct Sized {
    /// How much is redrawn: 255 or 0, or what is between for a mask with grey.
    pub redrawn: GrayImage,
    /// How much of the result is pasted.
    pub pasted: GrayImage,
}

impl MaskImage {
    /// The upright mask; with `invert` black is redrawn instead of white.
    ///
    /// # Errors
    ///
    /// [`SourceError`] if the file cannot be decoded, or if a part of it is transparent.
    pub fn read(file: &[u8], invert: bool) -> Result<Self, SourceError> {
        let picture = decode(file)?;
        if picture.color().has_alpha() && picture.to_rgba8().pixels().any(|p| p.0[3] != 255) {
            return Err(SourceError::Transparent);
        }
        Self::new(gray(picture), invert)
    }

    /// The mask of these values.
    ///
    /// # Errors
    ///
    /// [`SourceError::Black`] if nothing would be redrawn.
    pub fn new(mut values: GrayImage, invert: bool) -> Result<Self, SourceError> {
        for value in values.iter_mut() {
            let given = if invert { 255 - *value } else { *value };
            *value = match given {
                0..=NEAR => 0,
                given if given >= 255 - NEAR => 255,
                given => given,
            };
        }
        if values.iter().all(|value| *value == 0) {
            return Err(SourceError::Black);
        }
        let is_soft = values.iter().any(|value| !matches!(value, 0 | 255));
        Ok(Self { values, is_soft })
    }

    /// Width and height.
    pub fn size(&self) -> (u32, u32) {
        self.values.dimensions()
    }

    /// The mask, stretched as diffusers' mask processor does it. `blur`: pixels, the deviation of a
    /// Gaussian over the edge of what is pasted and, where there is grey, over the mask itself.
    pub(crate) fn sized(&self, width: u32, height: u32, blur: f64) -> Result<Sized, SourceError> {
        let mut redrawn = resize_gray(self.values.clone(), width, height)?;
        let threshold = if self.is_soft { 1 } else { WHITE };
        let mut area = redrawn.clone();
        area.iter_mut().for_each(|value| *value = if *value < threshold { 0 } else { 255 });
        if self.is_soft {
            redrawn = blurred(redrawn, blur);
        } else {
            redrawn = area.clone();
        }
        Ok(Sized { redrawn, pasted: blurred(area, blur) })
    }
}

/// A mask of the OpenAI API, whose transparent part is redrawn, as one of ours: a PNG.
///
/// # Errors
///
/// [`SourceError`] if the file cannot be decoded, or if it has no transparency.
pub fn mask_of_alpha(file: &[u8]) -> Result<Bytes, SourceError> {
    let picture = decode(file)?;
    if !picture.color().has_alpha() {
        return Err(SourceError::Opaque);
    }
    let alpha = picture.into_rgba8();
    let (width, height) = alpha.dimensions();
    let mask = GrayImage::from_fn(width, height, |x, y| Luma([255 - alpha.get_pixel(x, y).0[3]]));
    let mut file = Cursor::new(Vec::new());
    mask.write_to(&mut file, ImageFormat::Png).map_err(crate::broken)?;
    Ok(file.into_inner().into())
}

/// Red, green and blue together, as Pillow's `convert("L")`.
fn gray(picture: DynamicImage) -> GrayImage {
    let rgb = picture.into_rgb8();
    let (width, height) = rgb.dimensions();
    GrayImage::from_fn(width, height, |x, y| {
        let [r, g, b] = rgb.get_pixel(x, y).0.map(u32::from);
        Luma([((r * 19_595 + g * 38_470 + b * 7_471 + 0x8000) >> 16) as u8])
    })
}

fn blurred(values: GrayImage, blur: f64) -> GrayImage {
    if blur > 0.0 { imageops::blur(&values, blur as f32) } else { values }
}

#[cfg(test)]
mod tests {
    use image::{Rgba, RgbaImage};

    use super::*;

    fn half() -> GrayImage {
        GrayImage::from_fn(32, 16, |x, _| Luma([if x < 16 { 0 } else { 255 }]))
    }

    #[test]
    fn a_mask_is_read_from_every_format_and_inverted() {
        for format in [ImageFormat::Png, ImageFormat::Jpeg, ImageFormat::WebP] {
            let mut file = Cursor::new(Vec::new());
            DynamicImage::from(half()).to_rgb8().write_to(&mut file, format).expect("encodes");
            for (invert, left, right) in [(false, 0, 255), (true, 255, 0)] {
                let mask = MaskImage::read(file.get_ref(), invert).expect("a mask");
                let at = |x: u32| mask.values.get_pixel(x, 8).0[0];
                assert_eq!((at(2), at(29)), (left, right), "{format:?}");
            }
        }
    }

    #[test]
    fn what_says_nothing_of_white_is_refused() {
        let read = |alpha: u8, value: u8| {
            let pixel = Rgba([value, value, value, alpha]);
            let mut file = Cursor::new(Vec::new());
            let mask = RgbaImage::from_pixel(8, 8, pixel);
            mask.write_to(&mut file, ImageFormat::Png).expect("encodes");
            MaskImage::read(file.get_ref(), false).map(|mask| mask.size())
        };
        assert_eq!(read(255, 255), Ok((8, 8)));
        assert_eq!(read(254, 255), Err(SourceError::Transparent));
        assert_eq!(read(255, 7), Err(SourceError::Black));
        assert_eq!(MaskImage::read(b"GIF89a", false).map(drop), Err(SourceError::Format));
    }

    #[test]
    fn what_is_transparent_becomes_white() {
        let picture = RgbaImage::from_fn(8, 4, |x, _| Rgba([9, 9, 9, if x < 4 { 0 } else { 255 }]));
        let mut file = Cursor::new(Vec::new());
        picture.write_to(&mut file, ImageFormat::Png).expect("encodes");
        let mask = mask_of_alpha(file.get_ref()).expect("it has alpha");
        let mask = MaskImage::read(&mask, false).expect("a mask");
        assert_eq!((mask.values.get_pixel(3, 0).0, mask.values.get_pixel(4, 3).0), ([255], [0]));
        let mut file = Cursor::new(Vec::new());
        half().write_to(&mut file, ImageFormat::Png).expect("encodes");
        assert_eq!(mask_of_alpha(file.get_ref()), Err(SourceError::Opaque));
    }

    #[test]
    fn black_and_white_stay_so_at_every_size_and_grey_stays_grey() {
        let hard = MaskImage::new(half(), false).expect("white");
        let Sized { redrawn, pasted } = hard.sized(50, 40, 0.0).expect("stretches");
        assert!(redrawn.iter().all(|value| matches!(value, 0 | 255)));
        assert_eq!(redrawn, pasted);
        let mut soft = half();
        soft.put_pixel(3, 3, Luma([100]));
        let soft = MaskImage::new(soft, false).expect("white");
        let Sized { redrawn, pasted } = soft.sized(32, 16, 0.0).expect("stays");
        assert_eq!((redrawn.get_pixel(3, 3).0, pasted.get_pixel(3, 3).0), ([100], [255]));
    }

    #[test]
    fn the_blur_is_over_the_edge_only() {
        let Sized { redrawn, pasted } =
            MaskImage::new(half(), false).expect("white").sized(32, 16, 2.0).expect("stays");
        assert_eq!((redrawn.get_pixel(15, 8).0, redrawn.get_pixel(16, 8).0), ([0], [255]));
        let row: Vec<u8> = (0..32).map(|x| pasted.get_pixel(x, 8).0[0]).collect();
        assert!(row.is_sorted() && (90..160).contains(&row[15]), "{row:?}");
        assert_eq!((row[0], row[31]), (0, 255), "{row:?}");
    }
}
