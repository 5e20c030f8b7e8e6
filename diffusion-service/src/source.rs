//! The picture to draw from: a file's upright pixels at the size that is drawn.

pub use llm_dit_pictures::{
    MAX_FILE_BYTES, SourceError, check_media_type, decode, decode_bytes, resize, resize_bytes, size,
};

use crate::engine::Picture;

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

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use image::{ImageFormat, Rgb, RgbImage};

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
