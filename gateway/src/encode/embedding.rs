//! An encoder's answer for one prompt, as it is transferred and cached.

use bytes::Bytes;
use llm_dit_proto::v1::TensorHeader;

/// One prompt's embeddings, as they travel.
#[derive(Debug, Default)]
pub(crate) struct Embedding {
    pub header: TensorHeader,
    pub chunks: Vec<Bytes>,
    pub hidden_layer: u32,
    pub truncated: u32,
    /// The checkpoint's label.
    pub model: String,
}
