//! The picture to draw from: a file's upright pixels at the size that is drawn.

use image::imageops::FilterType;
pub use llm_dit_pictures::{
    MAX_FILE_BYTES, SourceError, check_media_type, decode, decode_bytes, size,
};

use crate::engine::Picture;

/// Most bytes that [`read`] takes, by the file's header.
///
/// # Errors
///
/// [`SourceError`] if the file's header cannot be read.
pub fn read_bytes(file: &[u8], width: u32, height: u32) -> Result<u64, SourceError> {
    const RGB: u64 = 3;
    /// Between its two passes, the resize holds four f32 of each pixel.
    const RESIZE: u64 = 16;
    let (across, down) = size(file)?;
    let (across, down) = (u64::from(across), u64::from(down));
    let (width, height) = (u64::from(width), u64::from(height));
    let resize = across * down * RGB + across * height * RESIZE + width * height * RGB;
    Ok(decode_bytes(file)?.max(resize))
}

/// The upright picture, resized to `width` x `height` pixels. Transparency is dropped, as Pillow's
/// `convert("RGB")` drops it.
///
/// # Errors
///
/// [`SourceError`] if the file cannot be decoded.
pub fn read(file: &[u8], width: u32, height: u32) -> Result<Picture, SourceError> {
    let upright = decode(file)?;
    let pixels = if (upright.width(), upright.height()) == (width, height) {
        upright.into_rgb8()
    } else {
        image::imageops::resize(&upright.into_rgb8(), width, height, FilterType::Lanczos3)
    };
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
