//! A picture that was made, and what is known of it.

use bytes::Bytes;
use llm_dit_pictures::Format;
use serde::{Deserialize, Serialize};

use super::request::GenerateBody;

/// A picture.
#[derive(Clone, Debug)]
pub(crate) struct Made {
    pub file: Bytes,
    pub format: Format,
    pub about: About,
}

/// Everything about a picture that a client may want to know.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct About {
    pub media_type: String,
    pub parameters: GenerateBody,
    pub formatted_prompt: String,
    /// From request to picture.
    pub seconds: f64,
    /// Tokens that were cut from the prompt and the negative prompt.
    pub truncated: [u32; 2],
    /// True if the embeddings came from the cache.
    pub cached: bool,
    pub history_id: Option<u64>,
}
