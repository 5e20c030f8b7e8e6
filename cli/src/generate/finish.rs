//! Converts the PNG of a local or remote run to the requested file, with all its parameters.

use bytes::Bytes;
use image::DynamicImage;
use llm_dit_recipe::{Recipe, RecipeError, Settings};

use super::item::Item;
use crate::error::CliError;

/// A file, and what could not be put into it.
pub struct Finished {
    pub file: Bytes,
    pub recipe: Recipe,
    pub note: Option<String>,
}

/// Converts a picture to the item's format and writes its recipe: what the service wrote into
/// `png`, and what only the item knows.
///
/// # Errors
///
/// [`CliError`] if the picture cannot be read or converted. A recipe that does not fit is left out,
/// with a note.
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
    let file = item.format.convert(png, quality).map_err(CliError::failed)?;
    match llm_dit_recipe::write(file.clone(), &recipe) {
        Ok(file) => Ok(Finished { file, recipe, note: None }),
        Err(error @ RecipeError::TooLong(_)) => {
            let note = format!("written without its parameters: {error}");
            Ok(Finished { file, recipe, note: Some(note) })
        }
        Err(error) => Err(CliError::failed(error)),
    }
}

/// The pixels of a picture's file.
///
/// # Errors
///
/// [`CliError`] if the file cannot be decoded.
pub fn pixels(file: &[u8]) -> Result<DynamicImage, CliError> {
    llm_dit_pictures::decode(file).map_err(CliError::failed)
}
