//! Picture files: which are read, how large they may be, upright pixels, and other formats.
//!
//! All files from outside are decoded here, for the wire, the command and the gateway.

mod convert;
mod inpaint;
mod mask;
mod resize;
mod whole;

use std::io::Cursor;

use image::{DynamicImage, ImageDecoder, ImageFormat, ImageReader, Limits, metadata::Orientation};

pub use convert::{Format, UnknownExtension, UnknownFormat, thumbnail};
pub use inpaint::{Inpainting, Paste, Prepared};
pub use mask::{MaskImage, mask_of_alpha};
pub use resize::{resize, resize_bytes};

/// Largest file that is looked at.
pub const MAX_FILE_BYTES: u64 = 64 * 1024 * 1024;

/// Most pixels that are decoded: a small file can claim a picture of any size.
pub const MAX_PIXELS: u64 = 8192 * 8192;

/// Largest side.
const MAX_SIDE: u32 = 16_384;
/// What a file's metadata may unpack to, such as a compressed color profile.
const MAX_METADATA_BYTES: u64 = 16 * 1024 * 1024;

/// The formats that can be read, and their media types.
const FORMATS: [(ImageFormat, &str); 3] = [
    (ImageFormat::Png, "image/png"),
    (ImageFormat::Jpeg, "image/jpeg"),
    (ImageFormat::WebP, "image/webp"),
];

/// Why a file is no picture for us.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SourceError {
    #[error("the image is not a PNG, JPEG or WebP file")]
    Format,
    #[error("images of type '{0}' are not supported; send image/png, image/jpeg or image/webp")]
    MediaType(String),
    #[error("the image file has {0} bytes; the maximum is {MAX_FILE_BYTES}")]
    TooLarge(u64),
    #[error("the image has {width}x{height} pixels; the maximum is {MAX_PIXELS} (8192x8192)")]
    TooManyPixels { width: u32, height: u32 },
    #[error(
        "a part of the mask is transparent; send black and white without transparency, where white is redrawn"
    )]
    Transparent,
    #[error("the mask has no transparency; make the part to edit transparent, in a PNG with alpha")]
    Opaque,
    #[error(
        "the mask has no white, so nothing would be redrawn; make that part white, or invert the mask"
    )]
    Black,
    /// Another error, of the mask.
    #[error("mask: {0}")]
    Mask(Box<SourceError>),
    #[error("the image cannot be decoded: {0}")]
    Broken(String),
}

/// Checks that files of this media type can be read.
///
/// # Errors
///
/// [`SourceError::MediaType`] if they cannot.
pub fn check_media_type(media_type: &str) -> Result<(), SourceError> {
    if FORMATS.iter().any(|(_, name)| *name == media_type) {
        Ok(())
    } else {
        Err(SourceError::MediaType(media_type.chars().take(100).collect()))
    }
}

/// The media type that the file's first bytes indicate.
///
/// # Errors
///
/// [`SourceError::Format`] if it is not one that can be read.
pub fn media_type(file: &[u8]) -> Result<&'static str, SourceError> {
    let format = image::guess_format(file).map_err(|_| SourceError::Format)?;
    let known = FORMATS.iter().find(|(known, _)| *known == format);
    known.map(|(_, name)| *name).ok_or(SourceError::Format)
}

/// Width and height of the upright picture, without decoding its pixels.
///
/// # Errors
///
/// [`SourceError`] if the file's header cannot be read.
pub fn size(file: &[u8]) -> Result<(u32, u32), SourceError> {
    let (decoder, orientation) = open(file)?;
    let (width, height) = decoder.dimensions();
    let turned = matches!(
        orientation,
        Orientation::Rotate90
            | Orientation::Rotate270
            | Orientation::Rotate90FlipH
            | Orientation::Rotate270FlipH
    );
    Ok(if turned { (height, width) } else { (width, height) })
}

/// Most bytes that [`decode`] takes, by the file's header: the pixels, those of a turned copy, and
/// what decoders hold beside them. A progressive JPEG has three coefficients of two bytes for each
/// pixel, and a copy of the file.
///
/// # Errors
///
/// As [`size`].
pub fn decode_bytes(file: &[u8]) -> Result<u64, SourceError> {
    const DECODER_BYTES: u64 = 6;
    let (decoder, _) = open(file)?;
    let (width, height) = decoder.dimensions();
    let (pixels, count) = (decoder.total_bytes(), u64::from(width) * u64::from(height));
    Ok(pixels + pixels.max(count * DECODER_BYTES + file.len() as u64))
}

/// The upright picture.
///
/// # Errors
///
/// [`SourceError`] if the file cannot be decoded.
pub fn decode(file: &[u8]) -> Result<DynamicImage, SourceError> {
    let (decoder, orientation) = open(file)?;
    let mut picture = DynamicImage::from_decoder(decoder).map_err(broken)?;
    picture.apply_orientation(orientation);
    Ok(picture)
}

fn open(file: &[u8]) -> Result<(impl ImageDecoder + '_, Orientation), SourceError> {
    if file.len() as u64 > MAX_FILE_BYTES {
        return Err(SourceError::TooLarge(file.len() as u64));
    }
    let mut reader = ImageReader::new(Cursor::new(file))
        .with_guessed_format()
        .map_err(|_| SourceError::Format)?;
    let format = reader.format().filter(|format| FORMATS.iter().any(|(known, _)| known == format));
    let format = format.ok_or(SourceError::Format)?;
    let mut limits = Limits::default();
    limits.max_image_width = Some(MAX_SIDE);
    limits.max_image_height = Some(MAX_SIDE);
    // Decoders apply this to metadata. The pixels are bounded below, before they are allocated.
    limits.max_alloc = Some(MAX_METADATA_BYTES);
    reader.limits(limits);
    let mut decoder = reader.into_decoder().map_err(broken)?;
    let (width, height) = decoder.dimensions();
    if u64::from(width) * u64::from(height) > MAX_PIXELS {
        return Err(SourceError::TooManyPixels { width, height });
    }
    if !whole::is_whole(file, format) {
        return Err(SourceError::Broken("the file is cut off; copy it again".to_owned()));
    }
    // EXIF that makes no sense turns nothing.
    let orientation = decoder.orientation().unwrap_or(Orientation::NoTransforms);
    Ok((decoder, orientation))
}

fn broken(error: image::ImageError) -> SourceError {
    SourceError::Broken(error.to_string())
}

#[cfg(test)]
mod tests {
    use image::{ImageEncoder as _, Rgb, RgbImage, codecs::jpeg::JpegEncoder};

    use super::*;

    fn file(format: ImageFormat) -> Vec<u8> {
        let mut file = Cursor::new(Vec::new());
        RgbImage::from_pixel(32, 16, Rgb([250, 0, 0]))
            .write_to(&mut file, format)
            .expect("encodes");
        file.into_inner()
    }

    fn crc(bytes: &[u8]) -> u32 {
        !bytes.iter().fold(!0, |crc, &byte| {
            (0..8).fold(crc ^ u32::from(byte), |crc, _| (crc >> 1) ^ (0xedb8_8320 * (crc & 1)))
        })
    }

    #[test]
    fn three_formats_are_known_by_their_first_bytes() {
        for (format, name) in FORMATS {
            let file = file(format);
            assert_eq!((size(&file), media_type(&file)), (Ok((32, 16)), Ok(name)));
            let (pixels, held) = (32 * 16 * 3, 32 * 16 * 6 + file.len() as u64);
            assert_eq!(decode_bytes(&file), Ok(pixels + held), "{name}");
        }
    }

    #[test]
    fn a_photo_is_turned_as_its_camera_was() {
        let red = RgbImage::from_fn(32, 16, |x, _| Rgb(if x < 16 { [250, 0, 0] } else { [0; 3] }));
        // Orientation 6: turn by 90 degrees clockwise to see it upright.
        let exif = b"II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0";
        let mut file = Vec::new();
        let mut encoder = JpegEncoder::new_with_quality(&mut file, 95);
        encoder.set_exif_metadata(exif.to_vec()).expect("JPEG has EXIF");
        encoder.encode_image(&red).expect("encodes");
        assert_eq!(size(&file), Ok((16, 32)));
        let picture = decode(&file).expect("reads").into_rgb8();
        let at = |x: u32, y: u32| picture.get_pixel(x, y).0[0];
        assert!(at(8, 4) > 200 && at(8, 28) < 50, "the left edge is on top now");
    }

    #[test]
    fn a_file_that_is_cut_off_is_refused_wherever_it_is_cut() {
        let picture = RgbImage::from_fn(48, 48, |x, y| Rgb([x as u8 * 5, y as u8 * 5, 7]));
        for (format, name) in FORMATS {
            let mut file = Cursor::new(Vec::new());
            picture.write_to(&mut file, format).expect("encodes");
            let file = file.into_inner();
            assert!(decode(&file).is_ok(), "{name}");
            let longer = [&file[..], b"something else"].concat();
            assert_eq!(size(&longer), Ok((48, 48)), "{name}: the image is whole");
            for cut in 0..file.len() {
                assert!(size(&file[..cut]).is_err(), "{name} cut to {cut} of {}", file.len());
            }
            let error = decode(&file[..file.len() - 1]).expect_err(name).to_string();
            assert!(error.contains("cut off"), "{name}: {error}");
        }
    }

    #[test]
    fn what_is_no_picture_is_an_error() {
        assert_eq!(size(b"GIF89a and more"), Err(SourceError::Format));
        assert_eq!(media_type(b"GIF89a and more"), Err(SourceError::Format));
        assert_eq!(size(b""), Err(SourceError::Format));
        let png = file(ImageFormat::Png);
        for cut in [9, 20, 40, png.len() / 2] {
            assert!(matches!(decode(&png[..cut]), Err(SourceError::Broken(_))), "{cut}");
        }
        // A PNG that claims 60000 x 60000 pixels is refused by its header alone.
        let mut bomb = png;
        bomb[16..24].copy_from_slice(&[0, 0, 0xea, 0x60, 0, 0, 0xea, 0x60]);
        assert!(decode(&bomb).is_err());
        // So is one that decoders would take, of 16384 x 8192: half a megabyte can be that large.
        bomb[16..24].copy_from_slice(&[0, 0, 0x40, 0, 0, 0, 0x20, 0]);
        // The header's checksum: CRC-32 of the kind and the contents.
        let crc = crc(&bomb[12..29]).to_be_bytes();
        bomb[29..33].copy_from_slice(&crc);
        let many = SourceError::TooManyPixels { width: 16_384, height: 8192 };
        assert_eq!(size(&bomb), Err(many.clone()));
        assert_eq!(decode(&bomb).map(drop), Err(many));
        assert!(check_media_type("image/png").is_ok());
        assert!(matches!(check_media_type("image/gif"), Err(SourceError::MediaType(_))));
    }
}
