//! Lanczos resizing as Pillow does it, which diffusers' image processor calls: two passes in fixed
//! point, each rounded to 8 bits.

use fast_image_resize::{FilterType, PixelType, ResizeAlg, ResizeOptions, Resizer, images::Image};
use image::{GrayImage, ImageBuffer, Pixel, RgbImage};

use crate::SourceError;

/// Bytes of a pixel.
const RGB: u64 = 3;

/// `image`, resized to `width` x `height` pixels: at most 1 of 255 from Pillow 13.
///
/// # Errors
///
/// [`SourceError::Broken`] if one of the images has no pixels.
pub fn resize(image: RgbImage, width: u32, height: u32) -> Result<RgbImage, SourceError> {
    passes(image, width, height, PixelType::U8x3)
}

/// Likewise, of one channel.
pub(crate) fn resize_gray(
    image: GrayImage,
    width: u32,
    height: u32,
) -> Result<GrayImage, SourceError> {
    passes(image, width, height, PixelType::U8)
}

/// 8-bit pixels in a vector.
type Buffer<P> = ImageBuffer<P, Vec<u8>>;

fn passes<P: Pixel<Subpixel = u8>>(
    image: Buffer<P>,
    width: u32,
    height: u32,
    kind: PixelType,
) -> Result<Buffer<P>, SourceError> {
    // The order matters, since values are rounded and clipped between the passes.
    let (across, down) = between(image.dimensions(), (width, height));
    pass(pass(image, across, down, kind)?, width, height, kind)
}

/// Most bytes that [`resize`] takes: the image, the one between the passes, and the result.
pub fn resize_bytes(from: (u32, u32), to: (u32, u32)) -> u64 {
    [from, between(from, to), to].iter().map(|(w, h)| u64::from(*w) * u64::from(*h) * RGB).sum()
}

/// The size between the passes. The columns change first, unless they grow in number while the rows
/// shrink, as in Pillow 13.
fn between((width, height): (u32, u32), to: (u32, u32)) -> (u32, u32) {
    if to.0 > width && to.1 < height { (width, to.1) } else { (to.0, height) }
}

/// Changes one side.
fn pass<P: Pixel<Subpixel = u8>>(
    image: Buffer<P>,
    width: u32,
    height: u32,
    kind: PixelType,
) -> Result<Buffer<P>, SourceError> {
    let (w, h) = image.dimensions();
    if (w, h) == (width, height) {
        return Ok(image);
    }
    let lanczos = ResizeOptions::new().resize_alg(ResizeAlg::Convolution(FilterType::Lanczos3));
    let source = Image::from_vec_u8(w, h, image.into_raw(), kind).map_err(broken)?;
    let mut resized = Image::new(width, height, kind);
    Resizer::new().resize(&source, &mut resized, &lanczos).map_err(broken)?;
    ImageBuffer::from_raw(width, height, resized.into_vec())
        .ok_or_else(|| broken("it is too large"))
}

fn broken(error: impl ToString) -> SourceError {
    SourceError::Broken(error.to_string())
}
