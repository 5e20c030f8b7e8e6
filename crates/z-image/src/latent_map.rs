//! The map from latents to colours that belongs to a VAE.
//!
//! A model folder may bring one in `vae/latent_preview.json`; the VAE of Z-Image, which is that of
//! FLUX.1, has published figures.

use std::path::Path;

use llm_dit_engine::image::LatentMap;
use llm_dit_weights::{Kind, Library, LoadError, Rule, Schema, read_config};

use crate::vae;

/// In a `vae/` folder.
const FILE: &str = "latent_preview.json";

const SCHEMA: Schema = Schema {
    keys: &[
        ("source", Rule::Ignored),
        ("factors", Rule::Needed(Kind::Rows(3))),
        ("bias", Rule::Needed(Kind::Numbers(3))),
    ],
    library: Library::None,
};

/// The map of a `vae/` folder, if it has one or is a VAE that we have one for.
///
/// # Errors
/// The file cannot be read, has another number of channels than `config`, or is not finite.
pub fn latent_map(folder: &Path, config: &vae::Config) -> Result<Option<LatentMap>, LoadError> {
    let path = folder.join(FILE);
    if !path.is_file() {
        return Ok(is_flux(config).then(LatentMap::flux));
    }
    let map: LatentMap = read_config(&path, &SCHEMA)?;
    let cause = if map.channels() != config.latent_channels {
        let (has, needed) = (map.channels(), config.latent_channels);
        format!("factors for {has} latent channels, but config.json says {needed}")
    } else if !map.is_finite() {
        "a factor is not finite".to_owned()
    } else {
        return Ok(Some(map));
    };
    Err(LoadError::Invalid { path, cause })
}

/// Whether this is FLUX.1's VAE, by the numbers that its training left.
pub(crate) fn is_flux(config: &vae::Config) -> bool {
    let near = |a: f64, b: f64| (a - b).abs() < 1e-6;
    config.latent_channels == 16
        && near(config.scaling_factor, 0.3611)
        && near(config.shift_factor, 0.1159)
}
