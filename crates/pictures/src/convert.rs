//! Converts the PNG, as which every picture is made, to other formats.

use std::{fmt, io::Cursor, path::Path, str::FromStr};

use bytes::Bytes;
use image::{
    ExtendedColorType, ImageEncoder as _, RgbImage,
    codecs::{jpeg::JpegEncoder, webp::WebPEncoder},
};

use crate::{SourceError, decode};

/// Quality of a thumbnail.
const THUMBNAIL_QUALITY: u8 = 80;

/// What pictures are written as.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Format {
    #[default]
    Png,
    Jpeg,
    /// Lossless.
    WebP,
}

impl Format {
    /// The name by which requests know it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Png => "png",
            Self::Jpeg => "jpeg",
            Self::WebP => "webp",
        }
    }

    /// What a file's name ends in; a name without an end is a PNG.
    ///
    /// # Errors
    /// An end that is none of a format's.
    pub fn from_path(path: &Path) -> Result<Self, UnknownExtension> {
        let Some(end) = path.extension() else { return Ok(Self::Png) };
        let end = end.to_string_lossy().to_ascii_lowercase();
        end.parse().map_err(|_| UnknownExtension(end))
    }

    /// The media type, as in `Content-Type`.
    pub fn media_type(self) -> &'static str {
        match self {
            Self::Png => "image/png",
            Self::Jpeg => "image/jpeg",
            Self::WebP => "image/webp",
        }
    }

    /// A PNG's pixels as this kind of file; a PNG stays as it is. `quality`, 1 to 100, is JPEG's.
    ///
    /// # Errors
    ///
    /// [`SourceError`] if `png` cannot be decoded, or if the encoder fails.
    pub fn convert(self, png: Bytes, quality: u8) -> Result<Bytes, SourceError> {
        if self == Self::Png {
            return Ok(png);
        }
        let rgb = decode(&png)?.into_rgb8();
        if self == Self::Jpeg {
            return jpeg(&rgb, quality);
        }
        let (width, height) = rgb.dimensions();
        let mut file = Cursor::new(Vec::new());
        WebPEncoder::new_lossless(&mut file)
            .write_image(&rgb, width, height, ExtendedColorType::Rgb8)
            .map_err(crate::broken)?;
        Ok(file.into_inner().into())
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Format {
    type Err = UnknownFormat;

    fn from_str(name: &str) -> Result<Self, UnknownFormat> {
        match name {
            "png" => Ok(Self::Png),
            "jpeg" | "jpg" => Ok(Self::Jpeg),
            "webp" => Ok(Self::WebP),
            _ => Err(UnknownFormat(name.chars().take(40).collect())),
        }
    }
}

/// Pictures are not written so.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown image format '{0}'; use png, jpeg or webp")]
pub struct UnknownFormat(String);

/// Pictures are not written to files of this name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(".{0} is not supported; use .png, .jpg, .jpeg or .webp")]
pub struct UnknownExtension(String);

/// A JPEG of at most `side` x `side` pixels.
///
/// # Errors
///
/// [`SourceError`] if the file cannot be decoded.
pub fn thumbnail(file: &[u8], side: u32) -> Result<Bytes, SourceError> {
    let picture = decode(file)?;
    let fits = picture.width() <= side && picture.height() <= side;
    let small = if fits { picture } else { picture.thumbnail(side, side) };
    jpeg(&small.into_rgb8(), THUMBNAIL_QUALITY)
}

fn jpeg(rgb: &RgbImage, quality: u8) -> Result<Bytes, SourceError> {
    let mut file = Vec::new();
    JpegEncoder::new_with_quality(&mut file, quality.clamp(1, 100))
        .encode_image(rgb)
        .map_err(crate::broken)?;
    Ok(file.into())
}

#[cfg(test)]
mod tests {
    use image::{ImageFormat, Rgb};

    use super::*;
    use crate::{media_type, size};

    fn png() -> Bytes {
        let mut file = Cursor::new(Vec::new());
        let picture = RgbImage::from_fn(48, 16, |x, y| Rgb([x as u8 * 5, y as u8 * 9, 100]));
        picture.write_to(&mut file, ImageFormat::Png).expect("encodes");
        file.into_inner().into()
    }

    #[test]
    fn every_format_is_what_it_says() {
        for format in [Format::Png, Format::Jpeg, Format::WebP] {
            let file = format.convert(png(), 90).expect("converts");
            assert_eq!(media_type(&file), Ok(format.media_type()));
            assert_eq!(size(&file), Ok((48, 16)));
            assert_eq!(format.name().parse(), Ok(format));
        }
        let webp = Format::WebP.convert(png(), 1).expect("converts");
        let pixels = |file: &[u8]| decode(file).expect("reads").into_rgb8();
        assert_eq!(pixels(&webp), pixels(&png()), "nothing is lost");
        let small = Format::Jpeg.convert(png(), 1).expect("converts").len();
        assert!(small < Format::Jpeg.convert(png(), 100).expect("converts").len());
        assert!(Format::Jpeg.convert(Bytes::from_static(b"text"), 90).is_err());
        assert!("gif".parse::<Format>().is_err());
    }

    #[test]
    fn a_name_tells_the_format() {
        let of = |name: &str| Format::from_path(Path::new(name));
        for (name, format) in [
            ("a.png", Format::Png),
            ("a", Format::Png),
            ("a.b/c", Format::Png),
            ("a.JPG", Format::Jpeg),
            ("a.png.webp", Format::WebP),
        ] {
            assert_eq!(of(name), Ok(format), "{name}");
        }
        let error = of("a.gif").expect_err("not written").to_string();
        assert_eq!(error, ".gif is not supported; use .png, .jpg, .jpeg or .webp");
    }

    #[test]
    fn a_thumbnail_keeps_its_proportions_and_is_never_larger() {
        assert_eq!(size(&thumbnail(&png(), 24).expect("shrinks")), Ok((24, 8)));
        assert_eq!(size(&thumbnail(&png(), 256).expect("stays")), Ok((48, 16)));
    }
}
