//! What `model_index.json` may say of a pipeline: which classes its parts are.

use llm_dit_weights::{Kind, Library, Rule, Schema};

use crate::scheduler_config::CLASS_NAMES;

/// Pipelines of diffusers that differ in what they are asked, not in their parts.
const PIPELINES: &[&str] =
    &["\"ZImagePipeline\"", "\"ZImageImg2ImgPipeline\"", "\"ZImageInpaintPipeline\""];

/// A key that is none of these is a part that another pipeline has.
pub(crate) const SCHEMA: Schema = Schema {
    keys: &[
        ("_class_name", Rule::Only(PIPELINES)),
        ("scheduler", Rule::Read(Kind::Class(CLASS_NAMES))),
        ("transformer", Rule::Read(Kind::Class(&["ZImageTransformer2DModel"]))),
        ("vae", Rule::Read(Kind::Class(&["AutoencoderKL"]))),
        // The text encoder's crate checks them.
        ("text_encoder", Rule::Ignored),
        ("tokenizer", Rule::Ignored),
    ],
    library: Library::Diffusers,
};
