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
    /// What the encoder computed on: `cpu`, `cuda:0`, or `heylookitsanllm`.
    pub device: String,
}

impl Embedding {
    /// Tokens that there are, and tokens that were cut.
    pub fn tokens(&self) -> (u32, u32) {
        let tokens = self.header.shape.first().copied().unwrap_or_default();
        (u32::try_from(tokens).unwrap_or(u32::MAX), self.truncated)
    }
}
