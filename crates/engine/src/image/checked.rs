//! A job that was checked, which is the only kind that an engine takes.

use std::ops::Deref;

use llm_dit_params::GenerateParams;
use llm_dit_proto::Tensor;

use super::{GenerateError, GenerateJob, Mask, ModelInfo, Picture};

/// A job whose every value was checked against the model. Only [`ModelInfo::check`] makes one.
#[derive(Clone, Debug)]
pub struct CheckedJob(GenerateJob);

impl Deref for CheckedJob {
    type Target = GenerateJob;

    fn deref(&self) -> &GenerateJob {
        &self.0
    }
}

impl ModelInfo {
    /// Checks everything about a job that does not need the weights. Reads every value of its
    /// tensors.
    ///
    /// # Errors
    /// [`GenerateError::BadJob`] with a message for the caller.
    pub fn check(&self, job: GenerateJob) -> Result<CheckedJob, GenerateError> {
        self.check_embeddings("embeddings", &job.embeddings)?;
        match (&job.negative_embeddings, job.params.uses_guidance()) {
            (Some(negative), true) => self.check_embeddings("negative embeddings", negative)?,
            (None, true) => {
                return Err(GenerateError::BadJob(format!(
                    "guidance_scale {} needs negative embeddings; send them or set guidance_scale to 0",
                    job.params.guidance_scale
                )));
            }
            // Embeddings that guidance will not read are not an error.
            (_, false) => {}
        }
        if let Some(image) = &job.image {
            Self::check_image(&job, image)?;
        }
        if let Some(mask) = &job.mask {
            Self::check_mask(&job, mask)?;
        }
        if let Some(latents) = &job.latents {
            if job.params.variation.is_some() {
                return Err(GenerateError::BadJob(
                    "initial latents have no variation; leave out variation_seed and variation_strength".into(),
                ));
            }
            self.check_latents_shape(&job.params, latents.shape())?;
            latents
                .check_finite()
                .map_err(|e| GenerateError::BadJob(format!("initial latents: {e}")))?;
        }
        Ok(CheckedJob(job))
    }

    fn check_image(job: &GenerateJob, image: &Picture) -> Result<(), GenerateError> {
        let GenerateParams { width, height, .. } = job.params;
        if job.latents.is_some() {
            return Err(GenerateError::BadJob(
                "an init image and initial latents exclude each other; send one of them".into(),
            ));
        }
        if (image.width, image.height) != (width, height)
            || image.rgb.len() as u64 != u64::from(width) * u64::from(height) * 3
        {
            return Err(GenerateError::BadJob(format!(
                "the init image is {}x{} with {} bytes; {width}x{height} RGB is needed",
                image.width,
                image.height,
                image.rgb.len()
            )));
        }
        job.params.check_strength().map_err(|error| GenerateError::BadJob(error.to_string()))
    }

    fn check_mask(job: &GenerateJob, mask: &Mask) -> Result<(), GenerateError> {
        let GenerateParams { width, height, .. } = job.params;
        if job.image.is_none() {
            return Err(GenerateError::BadJob(
                "a mask needs an init image; send one, or leave the mask out".into(),
            ));
        }
        if !mask.fits(width, height) {
            return Err(GenerateError::BadJob(format!(
                "the mask is {}x{} with {} values; {width}x{height} is needed",
                mask.width,
                mask.height,
                mask.values.len()
            )));
        }
        Ok(())
    }

    fn check_embeddings(&self, name: &str, embeddings: &Tensor) -> Result<(), GenerateError> {
        self.check_embeddings_shape(name, embeddings.shape())?;
        embeddings.check_finite().map_err(|e| GenerateError::BadJob(format!("{name}: {e}")))
    }
}
