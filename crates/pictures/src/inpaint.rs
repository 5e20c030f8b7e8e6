//! Redrawing a part of a picture: what is drawn from, and how the result goes back into the picture.

use image::{GrayImage, RgbImage, imageops};

use crate::{SourceError, mask::MaskImage, mask::Sized, resize, resize_bytes};

/// Bytes that a blur takes for each pixel of a mask.
const BLUR_BYTES: u64 = 8;

/// How a mask is used.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Inpainting {
    /// Pixels, the deviation of the Gaussian over the edge of what is pasted.
    pub blur: f64,
    /// Only what is around the masked part is drawn from, with so many pixels beside it, and enlarged
    /// to the size that is asked for.
    pub only_masked: Option<u32>,
}

/// A picture and its mask at the size that is drawn, and what is done with the result.
#[derive(Clone, Debug)]
pub struct Prepared {
    pub image: RgbImage,
    /// As large as `image`; 255 is redrawn.
    pub mask: GrayImage,
    pub paste: Paste,
}

/// Puts a result back into the picture that it was drawn from.
#[derive(Clone, Debug)]
pub struct Paste {
    source: RgbImage,
    /// How much of the result is seen, as large as `source`.
    pasted: GrayImage,
    region: Region,
}

/// A part of a picture.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Region {
    left: u32,
    top: u32,
    width: u32,
    height: u32,
}

impl Inpainting {
    /// Makes `image` and `mask` ready to be drawn from at `width` x `height` pixels.
    ///
    /// # Errors
    ///
    /// [`SourceError`] if one of them has no pixels, or if nothing of the mask is white at this size.
    pub fn prepare(
        &self,
        image: RgbImage,
        mask: &MaskImage,
        width: u32,
        height: u32,
    ) -> Result<Prepared, SourceError> {
        let Some(padding) = self.only_masked else {
            let source = resize(image, width, height)?;
            let Sized { redrawn, pasted } = mask.sized(width, height, self.blur)?;
            let region = Region { left: 0, top: 0, width, height };
            check(&redrawn)?;
            let paste = Paste { source: source.clone(), pasted, region };
            return Ok(Prepared { image: source, mask: redrawn, paste });
        };
        let (w, h) = image.dimensions();
        let Sized { redrawn, pasted } = mask.sized(w, h, self.blur)?;
        check(&redrawn)?;
        let region = Region::around(&pasted, padding).ok_or(SourceError::Black)?;
        let region = region.shaped((width, height), (w, h));
        let Region { left, top, width: across, height: down } = region;
        let part = imageops::crop_imm(&image, left, top, across, down).to_image();
        let part_mask = imageops::crop_imm(&redrawn, left, top, across, down).to_image();
        // What was black and white is so again.
        let part_mask = MaskImage::new(part_mask, false)?.sized(width, height, 0.0)?.redrawn;
        let image_part = resize(part, width, height)?;
        check(&part_mask)?;
        Ok(Prepared {
            image: image_part,
            mask: part_mask,
            paste: Paste { source: image, pasted, region },
        })
    }

    /// Most bytes that [`Inpainting::prepare`] takes with a picture and a mask of these sizes, what it
    /// returns included.
    pub fn bytes(&self, image: (u32, u32), mask: (u32, u32), to: (u32, u32)) -> u64 {
        let pixels = |(width, height): (u32, u32)| u64::from(width) * u64::from(height);
        let used = if self.only_masked.is_some() { image } else { to };
        resize_bytes(image, to)
            + resize_bytes(mask, used)
            + pixels(used) * (3 + 3 + BLUR_BYTES)
            + pixels(to) * 4
    }
}

/// A white spot may be too small for this size.
fn check(mask: &GrayImage) -> Result<(), SourceError> {
    if mask.iter().all(|value| *value == 0) { Err(SourceError::Black) } else { Ok(()) }
}

impl Paste {
    /// Width and height of the whole.
    pub fn size(&self) -> (u32, u32) {
        self.source.dimensions()
    }

    /// The picture with the result in it. Where the blurred mask is black its pixels are its own, bit
    /// for bit.
    ///
    /// # Errors
    ///
    /// [`SourceError`] if the result has no pixels.
    pub fn onto(self, made: RgbImage) -> Result<RgbImage, SourceError> {
        let Self { mut source, pasted, region } = self;
        let made = resize(made, region.width, region.height)?;
        for (x, y, made) in made.enumerate_pixels() {
            let (x, y) = (region.left + x, region.top + y);
            let seen = u32::from(pasted.get_pixel(x, y).0[0]);
            for (kept, made) in source.get_pixel_mut(x, y).0.iter_mut().zip(made.0) {
                let sum = u32::from(*kept) * (255 - seen) + u32::from(made) * seen;
                *kept = ((sum + 127) / 255) as u8;
            }
        }
        Ok(source)
    }
}

impl Region {
    /// The box around all that is not black, with `padding` pixels on every side as far as the picture
    /// goes.
    fn around(mask: &GrayImage, padding: u32) -> Option<Self> {
        let (width, height) = mask.dimensions();
        let seen = mask.enumerate_pixels().filter(|(.., value)| value.0[0] > 0);
        let (mut left, mut top, mut right, mut bottom) = (u32::MAX, u32::MAX, 0, 0);
        for (x, y, _) in seen {
            (left, top) = (left.min(x), top.min(y));
            (right, bottom) = (right.max(x), bottom.max(y));
        }
        if left == u32::MAX {
            return None;
        }
        let (left, top) = (left.saturating_sub(padding), top.saturating_sub(padding));
        let end = |last: u32, whole: u32| last.saturating_add(1).saturating_add(padding).min(whole);
        let (right, bottom) = (end(right, width), end(bottom, height));
        Some(Self { left, top, width: right - left, height: bottom - top })
    }

    /// Grown to the proportions of `to` as far as the picture goes, so that nothing is distorted.
    fn shaped(self, to: (u32, u32), whole: (u32, u32)) -> Self {
        let wanted = |side: u32, to: u32, of: u32| {
            (u64::from(side) * u64::from(to)).div_ceil(u64::from(of.max(1)))
        };
        let width = wanted(self.height, to.0, to.1).max(self.width.into()).min(whole.0.into());
        let height = wanted(self.width, to.1, to.0).max(self.height.into()).min(whole.1.into());
        let (width, height) = (width as u32, height as u32);
        let begin = |begin: u32, side: u32, grown: u32, whole: u32| {
            begin.saturating_sub((grown - side) / 2).min(whole - grown)
        };
        let left = begin(self.left, self.width, width, whole.0);
        let top = begin(self.top, self.height, height, whole.1);
        Self { left, top, width, height }
    }
}

#[cfg(test)]
mod tests {
    use image::{Luma, Rgb};

    use super::*;

    fn source() -> RgbImage {
        RgbImage::from_fn(200, 100, |x, y| Rgb([x as u8, y as u8, (x * y % 251) as u8]))
    }

    fn spot(width: u32, height: u32) -> MaskImage {
        let inside = |x: u32, y: u32| (60..80).contains(&x) && (40..50).contains(&y);
        let value = |x, y| Luma([if inside(x, y) { 255 } else { 0 }]);
        MaskImage::new(GrayImage::from_fn(width, height, value), false).expect("white")
    }

    #[test]
    fn outside_of_the_blurred_mask_the_pixels_are_the_pictures_own() {
        let red = RgbImage::from_pixel(200, 100, Rgb([255, 0, 0]));
        for blur in [0.0, 4.0] {
            let how = Inpainting { blur, only_masked: None };
            let ready = how.prepare(source(), &spot(200, 100), 200, 100).expect("fits");
            assert_eq!((ready.image, ready.mask.get_pixel(70, 45).0), (source(), [255]));
            let pasted = ready.paste.pasted.clone();
            let whole = ready.paste.onto(red.clone()).expect("pastes");
            let mut changed = 0;
            for (x, y, pixel) in whole.enumerate_pixels() {
                match pasted.get_pixel(x, y).0[0] {
                    0 => assert_eq!(pixel, source().get_pixel(x, y), "{x} {y}"),
                    255 => assert_eq!(pixel.0, [255, 0, 0]),
                    _ => changed += 1,
                }
            }
            assert_eq!(changed > 0, blur > 0.0);
        }
    }

    #[test]
    fn only_the_masked_part_is_drawn_from_and_goes_back_at_the_pictures_size() {
        let how = Inpainting { blur: 0.0, only_masked: Some(6) };
        let ready = how.prepare(source(), &spot(200, 100), 64, 64).expect("fits");
        // 32x22 with the padding; square, since 64x64 is.
        let region = Region { left: 54, top: 29, width: 32, height: 32 };
        assert_eq!(ready.paste.region, region);
        assert_eq!((ready.image.dimensions(), ready.mask.dimensions()), ((64, 64), (64, 64)));
        assert!(ready.mask.iter().all(|value| matches!(value, 0 | 255)));
        assert_eq!(ready.paste.size(), (200, 100));
        let blue = RgbImage::from_pixel(64, 64, Rgb([0, 0, 255]));
        let whole = ready.paste.onto(blue).expect("pastes");
        for (x, y, pixel) in whole.enumerate_pixels() {
            let inside = (60..80).contains(&x) && (40..50).contains(&y);
            let expected = if inside { Rgb([0, 0, 255]) } else { *source().get_pixel(x, y) };
            assert_eq!(*pixel, expected, "{x} {y}");
        }
    }

    #[test]
    fn a_part_keeps_its_proportions_and_stays_inside() {
        let part = |left, top, width, height| Region { left, top, width, height };
        let whole = (100, 60);
        for (given, to, expected) in [
            (part(10, 10, 20, 10), (64, 64), part(10, 5, 20, 20)),
            (part(0, 0, 20, 10), (64, 64), part(0, 0, 20, 20)),
            (part(80, 50, 20, 10), (64, 64), part(80, 40, 20, 20)),
            (part(90, 0, 10, 60), (128, 64), part(0, 0, 100, 60)),
            (part(0, 0, 100, 60), (64, 128), part(0, 0, 100, 60)),
        ] {
            assert_eq!(given.shaped(to, whole), expected, "{given:?}");
        }
        let mut mask = GrayImage::new(40, 30);
        assert_eq!(Region::around(&mask, 5), None);
        mask.put_pixel(39, 0, Luma([1]));
        assert_eq!(Region::around(&mask, u32::MAX), Some(part(0, 0, 40, 30)));
        assert_eq!(Region::around(&mask, 2), Some(part(37, 0, 3, 3)));
    }

    #[test]
    fn a_mask_that_vanishes_is_refused() {
        let mut mask = GrayImage::new(400, 400);
        mask.put_pixel(7, 7, Luma([255]));
        let mask = MaskImage::new(mask, false).expect("white");
        let how = Inpainting { blur: 0.0, only_masked: None };
        let result = how.prepare(source(), &mask, 64, 64).map(drop);
        assert_eq!(result, Err(SourceError::Black));
    }
}
