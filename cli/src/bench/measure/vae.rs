//! The VAE's decoder: from latents on the device to pixels on the device.

use llm_dit_z_image::{DrawError, ZImage};

use super::{Lines, Setup, forward::normal};
use crate::{bench::row::Row, error::CliError};

/// Measures one decoding of the VAE at each size.
///
/// # Errors
///
/// [`CliError`] if the report cannot be written.
pub fn rows(setup: &Setup, model: &mut ZImage, lines: &mut Lines<'_>) -> Result<(), CliError> {
    let config = model.autoencoder.config().clone();
    for &size in &setup.sizes {
        let name = format!("decode {size}x{size}");
        let side = size as usize / config.scale_factor();
        let (tiling, budget) = (model.autoencoder.tiling(), model.vae_budget());
        lines.measure(&name, || {
            model.autoencoder.decoder(|decoder| {
                let device = decoder.device();
                let z = normal(&[1, config.latent_channels, side, side], device)?;
                let times = setup.clock.time(&[device], || tiling.decode(decoder, &z, budget))?;
                Ok::<_, DrawError>(Row::new(&name, &times))
            })
        })?;
    }
    Ok(())
}
