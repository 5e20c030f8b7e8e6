//! From the diffusion service's PNG to the file that was asked for, with its recipe.

use std::time::Instant;

use bytes::Bytes;
use llm_dit_pictures::Format;
use llm_dit_recipe::{Recipe, RecipeError, Settings};
use llm_dit_telemetry::metrics::stage;
use tokio::task;

use super::{checked::Checked, outcome::Drawn};
use crate::{
    error::Error,
    records::{
        picture::{About, Made},
        request::Request,
    },
};

/// Room in a file for what is not pixels.
const MAX_METADATA_BYTES: u64 = 1 << 20;

/// `begun` is when the request was.
pub(super) async fn finish(request: &Request, drawn: Drawn, begun: Instant) -> Result<Made, Error> {
    let finishing = Instant::now();
    let Drawn { image: Checked { png, recipe }, params, tokens, cached, chat, memory } = drawn;
    let (settings, format, quality) = (request.recipe(), request.format, request.quality);
    // Moved along: a conversion goes on when the caller leaves.
    let write = move || {
        let written = file(png, recipe, settings, format, quality);
        written.map(|(file, omitted)| (memory.hold(file), omitted))
    };
    // Only converting takes long enough to be in somebody's way.
    let (file, parameters_omitted) = if format == Format::Png {
        write()
    } else {
        let failed = |error| Error::Lost(format!("converting the image failed: {error}"));
        task::spawn_blocking(write).await.map_err(failed)?
    }?;
    let about = About {
        media_type: format.media_type().to_owned(),
        parameters: request.used(&params),
        formatted_prompt: chat.render(),
        seconds: begun.elapsed().as_secs_f64(),
        tokens: tokens.map(|(used, _)| used),
        truncated: tokens.map(|(_, cut)| cut),
        parameters_omitted,
        cached,
        history_id: None,
    };
    tracing::info!(
        seed = params.seed,
        bytes = file.len(),
        seconds = about.seconds,
        "generated an image"
    );
    stage("finish", finishing.elapsed());
    Ok(Made { file, format, about })
}

/// Bytes of the largest file that a service may send for an image.
pub(super) fn max_file_bytes(size: (u32, u32)) -> u64 {
    pixels(size) * 4 + MAX_METADATA_BYTES
}

/// Bytes that an image takes in the gateway: its file and, for a conversion, two copies of its
/// pixels.
pub(super) fn memory_of(size: (u32, u32), format: Format) -> u64 {
    let converting = if format == Format::Png { 0 } else { pixels(size) * 3 * 2 };
    max_file_bytes(size) + converting
}

fn pixels((width, height): (u32, u32)) -> u64 {
    u64::from(width) * u64::from(height)
}

/// The file, and why its parameters are not in it if they are not.
fn file(
    png: Bytes,
    known: Recipe,
    settings: Settings,
    format: Format,
    quality: u8,
) -> Result<(Bytes, Option<String>), Error> {
    let broken = |error: &dyn std::fmt::Display| {
        Error::Lost(format!("the diffusion service sent an image that cannot be read: {error}"))
    };
    let recipe = Recipe { settings: known.settings.or(settings), ..known };
    let file = format.convert(png, quality).map_err(|e| broken(&e))?;
    match llm_dit_recipe::write(file.clone(), &recipe) {
        Ok(file) => Ok((file, None)),
        Err(error @ RecipeError::TooLong(_)) => {
            tracing::warn!(%error, "an image is sent without its parameters");
            Ok((file, Some(error.to_string())))
        }
        Err(error) => Err(broken(&error)),
    }
}
