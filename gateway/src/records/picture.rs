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
    /// Tokens of the prompt and the negative prompt.
    #[serde(default)]
    pub tokens: [u32; 2],
    /// Tokens that were cut from them.
    pub truncated: [u32; 2],
    /// Why the file does not hold its parameters, if it does not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parameters_omitted: Option<String>,
    /// True if the embeddings came from the cache.
    pub cached: bool,
    pub history_id: Option<u64>,
}
