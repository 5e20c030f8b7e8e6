//! `usage`: what a request cost, in the tokens of the two models.

use serde::Serialize;
use utoipa::ToSchema;

use crate::records::picture::Made;

/// Side of the square of pixels that is one token of the transformer.
const TOKEN_SIDE: u64 = 16;

#[derive(Debug, PartialEq, Eq, Serialize, ToSchema)]
pub(crate) struct Usage {
    /// Tokens of the prompt, and of the negative prompt with guidance, once for each image.
    input_tokens: u64,
    /// Tokens of the images in the transformer: one for each 16x16 pixels.
    output_tokens: u64,
    total_tokens: u64,
    input_tokens_details: InputDetails,
    output_tokens_details: OutputDetails,
}

#[derive(Debug, PartialEq, Eq, Serialize, ToSchema)]
pub(crate) struct InputDetails {
    /// Always 0: an init image takes the place of the noise.
    image_tokens: u64,
    text_tokens: u64,
}

#[derive(Debug, PartialEq, Eq, Serialize, ToSchema)]
pub(crate) struct OutputDetails {
    image_tokens: u64,
    /// Always 0.
    text_tokens: u64,
}

impl Usage {
    /// Of all images of a request.
    pub fn of(made: &[Made]) -> Self {
        let text = made.iter().flat_map(|made| made.about.tokens).map(u64::from).sum();
        let side = |side: Option<u32>| u64::from(side.unwrap_or_default()).div_ceil(TOKEN_SIDE);
        let image = made.iter().map(|made| &made.about.parameters);
        let image = image.map(|used| side(used.width) * side(used.height)).sum();
        Self {
            input_tokens: text,
            output_tokens: image,
            total_tokens: text + image,
            input_tokens_details: InputDetails { image_tokens: 0, text_tokens: text },
            output_tokens_details: OutputDetails { image_tokens: image, text_tokens: 0 },
        }
    }
}
