//! The picture to draw from: a file's upright pixels at the size that is drawn, and its mask.

use image::RgbImage;
use llm_dit_params::GenerateParams;
use llm_dit_pictures::{Inpainting, MaskImage, Prepared};

pub use llm_dit_pictures::{
    MAX_FILE_BYTES, Paste, SourceError, check_media_type, decode, decode_bytes, resize,
    resize_bytes, size,
};

use crate::engine::{Mask, Picture};

/// What is redrawn of a picture, and how the result goes back into it.
#[derive(Clone, Debug)]
pub struct Masked {
    pub mask: Mask,
    pub paste: Paste,
}

/// Most bytes that [`read`] takes, by the file's header.
///
/// # Errors
///
/// [`SourceError`] if the file's header cannot be read.
pub fn read_bytes(file: &[u8], width: u32, height: u32) -> Result<u64, SourceError> {
    Ok(decode_bytes(file)?.max(resize_bytes(size(file)?, (width, height))))
}

/// The upright picture, resized to `width` x `height` pixels. Transparency is dropped, as Pillow's
/// `convert("RGB")` drops it.
///
/// # Errors
///
/// [`SourceError`] if the file cannot be decoded.
pub fn read(file: &[u8], width: u32, height: u32) -> Result<Picture, SourceError> {
    let pixels = resize(decode(file)?.into_rgb8(), width, height)?;
    Ok(Picture { width, height, rgb: pixels.into_raw() })
}

/// Likewise of a picture with a mask, which have any sizes.
///
/// # Errors
///
/// [`SourceError`] if a file's header cannot be read.
pub fn read_masked_bytes(
    image: &[u8],
    mask: &[u8],
    params: &GenerateParams,
) -> Result<u64, SourceError> {
    let (image_size, mask_size) = (size(image)?, size(mask)?);
    let pixels = |(width, height): (u32, u32)| u64::from(width) * u64::from(height);
    // One after the other is decoded; the first is kept meanwhile.
    let decoding = decode_bytes(mask)?.max(decode_bytes(image)? + pixels(mask_size));
    let to = (params.width, params.height);
    Ok(decoding + inpainting(params).bytes(image_size, mask_size, to) + pixels(mask_size))
}

/// The upright picture or the part of it that is redrawn, resized, with its mask.
///
/// # Errors
///
/// [`SourceError`] if a file cannot be decoded, or if nothing of the mask is white.
pub fn read_masked(
    image: &[u8],
    mask: &[u8],
    params: &GenerateParams,
) -> Result<(Picture, Masked), SourceError> {
    let (width, height) = (params.width, params.height);
    let of_mask = |error: SourceError| match error {
        SourceError::Transparent | SourceError::Black => error,
        other => SourceError::Mask(Box::new(other)),
    };
    let mask = MaskImage::read(mask, params.mask_invert).map_err(of_mask)?;
    let image = decode(image)?.into_rgb8();
    let Prepared { image, mask, paste } =
        inpainting(params).prepare(image, &mask, width, height)?;
    let mask = Mask { width, height, values: mask.into_raw() };
    Ok((Picture { width, height, rgb: image.into_raw() }, Masked { mask, paste }))
}

fn inpainting(params: &GenerateParams) -> Inpainting {
    Inpainting { blur: params.mask_blur, only_masked: params.only_masked }
}

/// The picture that was drawn from with what was made of its masked part.
///
/// # Errors
///
/// [`SourceError`] if what was made has no pixels.
pub fn paste(paste: Paste, made: Picture) -> Result<Picture, SourceError> {
    let Picture { width, height, rgb } = made;
    let made = RgbImage::from_raw(width, height, rgb)
        .ok_or_else(|| SourceError::Broken("the pixels do not fit the size".to_owned()))?;
    let whole = paste.onto(made)?;
    let (width, height) = whole.dimensions();
    Ok(Picture { width, height, rgb: whole.into_raw() })
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use image::{ImageFormat, Rgb};

    use super::*;

    #[test]
    fn a_picture_is_resized_and_what_is_none_is_an_error() {
        // Left half red, right half blue.
        let red = |x| if x < 16 { Rgb([250, 0, 0]) } else { Rgb([0, 0, 250]) };
        for format in [ImageFormat::Png, ImageFormat::Jpeg, ImageFormat::WebP] {
            let mut file = Cursor::new(Vec::new());
            let picture = RgbImage::from_fn(32, 16, |x, _| red(x));
            picture.write_to(&mut file, format).expect("encodes");
            let picture = read(file.get_ref(), 32, 16).expect("reads");
            assert!(read_bytes(file.get_ref(), 32, 16).expect("reads") >= 32 * 16 * 6);
            assert!(picture.rgb[0] > 230 && picture.rgb[2] < 20, "{:?}", &picture.rgb[..3]);
            let small = read(file.get_ref(), 16, 16).expect("reads");
            assert_eq!((small.width, small.height, small.rgb.len()), (16, 16, 16 * 16 * 3));
        }
        assert_eq!(read(b"GIF89a and more", 16, 16), Err(SourceError::Format));
    }
}
