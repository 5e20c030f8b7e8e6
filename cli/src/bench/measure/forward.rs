//! The transformer: one forward pass, from latents on the device to latents on the device.

use candle_core::{DType, Device, Tensor};
use llm_dit_z_image::{DrawError, ZImage, dit::Dit};

use super::{Lines, Setup};
use crate::{
    bench::{row::Row, work},
    error::CliError,
};

/// Somewhere in the middle of a picture.
const TIME: f32 = 0.5;

/// Measures one forward of the transformer at each size and batch.
///
/// # Errors
///
/// [`CliError`] if the report cannot be written.
pub fn rows(setup: &Setup, model: &mut ZImage, lines: &mut Lines<'_>) -> Result<(), CliError> {
    let config = model.dit.config().clone();
    let factor = model.autoencoder.config().scale_factor();
    let tokens = setup.text_tokens as usize;
    for &size in &setup.sizes {
        for &batch in &setup.batches {
            let name = format!("forward {size}x{size} b{batch}");
            let (side, batch) = (size as usize / factor, batch as usize);
            let operations = work::forward(&config, side, tokens, batch);
            lines.measure(&name, || {
                model.dit.with(|dit| {
                    let device = dit.device();
                    let latents = (0..batch)
                        .map(|_| normal(&[config.in_channels, side, side], device))
                        .collect::<candle_core::Result<Vec<_>>>()?;
                    let conditioning = condition(dit, side, tokens, batch)?;
                    let times = vec![TIME; batch];
                    let times = setup
                        .clock
                        .time(&[device], || dit.forward(&latents, &times, &conditioning))?;
                    Ok::<_, DrawError>(Row::new(&name, &times).with_work(operations))
                })
            })?;
        }
    }
    Ok(())
}

fn condition(
    dit: &Dit,
    side: usize,
    tokens: usize,
    batch: usize,
) -> candle_core::Result<llm_dit_z_image::dit::Conditioning> {
    let captions = (0..batch)
        .map(|_| normal(&[tokens, dit.config().cap_feat_dim], dit.device()))
        .collect::<candle_core::Result<Vec<_>>>()?;
    dit.condition(&captions, &vec![(side, side); batch])
}

/// Standard normal values in f32, the dtype of latents.
///
/// # Errors
///
/// Fails if the device fails.
pub fn normal(shape: &[usize], device: &Device) -> candle_core::Result<Tensor> {
    Tensor::randn(0f32, 1f32, shape, device)?.to_dtype(DType::F32)
}
