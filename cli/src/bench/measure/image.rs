//! A whole picture past the encoder: from embeddings on the host to the bytes of a PNG.

use std::ops::ControlFlow;

use diffusion_service::{
    engine::{CheckedJob, GenerateError, GenerateJob, ImageGenerator as _, Step},
    picture,
};
use llm_dit_params::GenerateOptions;
use llm_dit_proto::Tensor;
use llm_dit_z_image::{DrawError, ZImage, noise::Noise};

use super::{Lines, Setup};
use crate::{bench::row::Row, error::CliError};

/// Measures one whole picture at each size.
///
/// # Errors
///
/// [`CliError`] if the report cannot be written.
pub fn rows(setup: &Setup, model: &mut ZImage, lines: &mut Lines<'_>) -> Result<(), CliError> {
    let device = lines.device();
    for &size in &setup.sizes {
        let name = format!("image {size}x{size} x{}", setup.forwards);
        lines.measure(&name, || {
            let job = job(setup, model, size)?;
            let times =
                setup.slow_clock().time(&[&device], || Ok::<_, DrawError>(make(model, &job)?))?;
            Ok::<_, DrawError>(Row::new(&name, &times))
        })?;
    }
    Ok(())
}

fn job(setup: &Setup, model: &ZImage, size: u32) -> Result<CheckedJob, GenerateError> {
    let bad = |error: &dyn std::fmt::Display| GenerateError::BadJob(error.to_string());
    let info = model.info();
    let options = GenerateOptions {
        width: Some(size),
        height: Some(size),
        steps: Some(setup.forwards),
        seed: Some(42),
        guidance_scale: Some(0.0),
        ..GenerateOptions::default()
    };
    let shape = vec![setup.text_tokens as usize, info.cap_feat_dim];
    let values = Noise::new(7).randn(shape.iter().product());
    info.check(GenerateJob {
        loras: model.loras.iter().map(|lora| lora.choice.clone()).collect(),
        params: options.resolve(&info.defaults, &info.limits).map_err(|e| bad(&e))?,
        embeddings: Tensor::from_f32(&values, shape, info.dtype).map_err(|e| bad(&e))?,
        negative_embeddings: None,
        latents: None,
        image: None,
        mask: None,
        return_latents: false,
        preview: None,
    })
}

fn make(model: &mut ZImage, job: &CheckedJob) -> Result<bytes::Bytes, GenerateError> {
    let made = model.generate(job, &mut |_: Step| ControlFlow::Continue(()))?;
    let recipe = picture::recipe(&model.info(), job);
    picture::encode_png(&made.picture, &recipe)
        .map_err(|fault| GenerateError::Backend(fault.to_string()))
}
