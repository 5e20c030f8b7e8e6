//! From the PNG that every way of making a picture ends in to the file that was asked for, with
//! all its parameters.

use std::{io::Cursor, path::Path};

use bytes::Bytes;
use diffusion_service::source;
use image::{
    DynamicImage, ExtendedColorType, ImageEncoder as _,
    codecs::{jpeg::JpegEncoder, webp::WebPEncoder},
};
use llm_dit_recipe::{Recipe, RecipeError, Settings};

use super::plan::Item;
use crate::error::CliError;

/// What files can be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    Png,
    Jpeg,
    /// Lossless.
    WebP,
}

impl Format {
    /// What the name ends in; a name without an end is a PNG.
    pub fn of(path: &Path) -> Result<Self, CliError> {
        let end = path.extension().map(|e| e.to_string_lossy().to_ascii_lowercase());
        match end.as_deref() {
            None | Some("png") => Ok(Self::Png),
            Some("jpg" | "jpeg") => Ok(Self::Jpeg),
            Some("webp") => Ok(Self::WebP),
            Some(other) => Err(CliError::Usage(format!(
                "cannot write {}: .{other} is not known; use .png, .jpg, .jpeg or .webp",
                path.display()
            ))),
        }
    }
}

/// A file, and what could not be put into it.
pub struct Finished {
    pub file: Bytes,
    pub note: Option<String>,
}

/// `png` holds what the service knew of the picture; the item knows the rest.
pub fn finish(
    png: Bytes,
    item: &Item,
    prompt: Option<String>,
    quality: u8,
) -> Result<Finished, CliError> {
    let known = llm_dit_recipe::read(png.clone()).map_err(CliError::failed)?.unwrap_or_default();
    let told = Settings { prompt, ..Settings::default() };
    let settings = known.settings.or(item.settings.clone()).or(told).without_blanks();
    let recipe = Recipe { settings, sha256: item.sha256.clone(), ..known };
    let file = match item.format {
        Format::Png => png,
        Format::Jpeg | Format::WebP => convert(&png, item.format, quality)?,
    };
    match llm_dit_recipe::write(file.clone(), &recipe) {
        Ok(file) => Ok(Finished { file, note: None }),
        Err(error @ RecipeError::TooLong(_)) => {
            let note = format!("{}: without its parameters: {error}", item.output.display());
            Ok(Finished { file, note: Some(note) })
        }
        Err(error) => Err(CliError::failed(error)),
    }
}

/// The pixels of a file of ours.
pub fn pixels(file: &[u8]) -> Result<DynamicImage, CliError> {
    source::decode(file).map_err(CliError::failed)
}

fn convert(png: &[u8], format: Format, quality: u8) -> Result<Bytes, CliError> {
    let rgb = pixels(png)?.into_rgb8();
    let (width, height) = rgb.dimensions();
    let mut file = Cursor::new(Vec::new());
    let written = if format == Format::Jpeg {
        let encoder = JpegEncoder::new_with_quality(&mut file, quality);
        encoder.write_image(&rgb, width, height, ExtendedColorType::Rgb8)
    } else {
        let encoder = WebPEncoder::new_lossless(&mut file);
        encoder.write_image(&rgb, width, height, ExtendedColorType::Rgb8)
    };
    written.map_err(CliError::failed)?;
    Ok(file.into_inner().into())
}
