//! How the parts of a model share the memory of their devices, before any is loaded.

use std::path::PathBuf;

use llm_dit_engine::plan::{Course, Limit, Plan, PlanError};
use llm_dit_qwen3::EncoderOptions;
use llm_dit_weights::{Parts, args::OffloadArgs};
use llm_dit_z_image::{DiffusionOptions, Largest};

use crate::error::CliError;

/// What is to be loaded in this process.
pub struct Wanted<'a> {
    /// `None`: embeddings come from elsewhere.
    pub encoder: Option<&'a EncoderOptions>,
    pub diffusion: &'a DiffusionOptions,
    pub models: &'a [(String, PathBuf)],
    /// `--model-memory`.
    pub model_memory: Option<u64>,
    pub course: Course,
    /// `--max-batch`.
    pub batch: Option<usize>,
    /// The most images at once.
    pub images: usize,
    /// `None`: an image as the models make it unasked.
    pub largest: Option<Largest>,
}

/// The plans of the devices; `None` where there is no limit.
#[derive(Clone, Debug, Default)]
pub struct Plans {
    /// Of the transformer's device.
    pub diffusion: Option<Plan>,
    /// Of the text encoder's, which may be the same one.
    pub encoder: Option<Plan>,
}

impl Wanted<'_> {
    /// Reads headers, and plans.
    ///
    /// # Errors
    ///
    /// [`CliError`] if files are missing or invalid, or if the parts do not fit as the flags ask.
    pub fn plan(&self, args: &OffloadArgs) -> Result<Plans, CliError> {
        let Self { diffusion, models, model_memory, course, batch, images, largest, .. } = *self;
        let parts = llm_dit_z_image::measure(diffusion, models, model_memory, largest);
        let parts = parts.map_err(CliError::failed)?;
        let encoder =
            self.encoder.map(llm_dit_qwen3::measure).transpose().map_err(CliError::failed)?;
        let plan = |parts: &Parts, batch| {
            args.plan(parts, course, images, batch).map_err(|error| refused(&error))
        };
        match encoder {
            Some(encoder) if encoder.device.same_device(&parts.device) => {
                let plan = plan(&encoder.with(parts), batch)?;
                Ok(Plans { diffusion: plan.clone(), encoder: plan })
            }
            encoder => Ok(Plans {
                diffusion: plan(&parts, batch)?,
                encoder: encoder.map(|parts| plan(&parts, None)).transpose()?.flatten(),
            }),
        }
    }
}

fn refused(error: &PlanError) -> CliError {
    match error.limit {
        Limit::Given(_) => CliError::usage(error),
        Limit::Free(_) => CliError::failed(error),
    }
}

impl Plans {
    /// In words.
    pub fn lines(&self) -> Vec<String> {
        let one = |plan: &Option<Plan>| plan.iter().flat_map(Plan::lines).collect::<Vec<_>>();
        let mut lines = one(&self.diffusion);
        if self.encoder != self.diffusion {
            lines.extend(one(&self.encoder));
        }
        lines
    }

    /// Whether text encoder and transformer share a device that holds one of them at a time only.
    pub fn takes_turns(&self) -> bool {
        self.diffusion == self.encoder && self.diffusion.as_ref().is_some_and(Plan::takes_turns)
    }
}
