//! Whether an engine works, judged by an image of its own.

use std::ops::ControlFlow;

use llm_dit_params::GenerateOptions;
use llm_dit_proto::{DType, Tensor};

use super::pending::fuse;
use crate::engine::{
    ActiveLora, GenerateError, GenerateJob, ImageGenerator, Step, StepSink, X0Prediction,
};

/// Tokens of the image's embeddings.
const TOKENS: usize = 8;

/// Whether the device computes, and the smallest image of the model comes out with nothing of a
/// request's: zeros for embeddings, and the service's default LoRAs.
pub(super) fn works(engine: &mut dyn ImageGenerator, loras: &[ActiveLora]) -> bool {
    let choices: Vec<_> = loras.iter().map(|lora| lora.choice.clone()).collect();
    let result = engine
        .probe()
        .and_then(|()| fuse(engine, &choices).map_err(GenerateError::from))
        .and_then(|()| draw(engine, choices));
    match result {
        // Another image may be what takes the memory.
        Ok(()) | Err(GenerateError::OutOfMemory) => true,
        Err(error) => {
            tracing::warn!(%error, "a probe of the engine failed");
            false
        }
    }
}

fn draw(
    engine: &mut dyn ImageGenerator,
    loras: Vec<crate::engine::LoraChoice>,
) -> Result<(), GenerateError> {
    let info = engine.info();
    let bad = |error: &dyn std::fmt::Display| GenerateError::Backend(error.to_string());
    let side = info.limits.min_side.next_multiple_of(info.limits.side_multiple);
    let options = GenerateOptions {
        width: Some(side),
        height: Some(side),
        steps: Some(1),
        seed: Some(0),
        guidance_scale: Some(0.0),
        ..Default::default()
    };
    let params = options.resolve(&info.defaults, &info.limits).map_err(|error| bad(&error))?;
    let shape = vec![TOKENS.min(info.max_caption_tokens), info.cap_feat_dim];
    let zeros = vec![0.0; shape.iter().product()];
    let embeddings = Tensor::from_f32(&zeros, shape, DType::F32).map_err(|error| bad(&error))?;
    let job = info.check(GenerateJob {
        params,
        loras,
        embeddings,
        negative_embeddings: None,
        latents: None,
        image: None,
        mask: None,
        return_latents: false,
        preview: None,
    })?;
    engine.generate(&job, &mut NobodyListens).map(drop)
}

struct NobodyListens;

impl StepSink for NobodyListens {
    fn step(&mut self, _: Step) -> ControlFlow<()> {
        ControlFlow::Continue(())
    }

    fn guess(&mut self, _: X0Prediction) {}
}
