//! The interface between the service and a text encoder, in plain data: no tensor type crosses it.

use llm_dit_proto::{DType, Tensor};

use crate::MemoryReader;

/// What a loaded encoder is and accepts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EncoderInfo {
    /// The checkpoint's label.
    pub model: String,
    /// Width of one embedding.
    pub hidden_size: usize,
    /// Decoder layers in the checkpoint.
    pub layers: usize,
    /// "cpu", "cuda:0" or "metal:0"; "heylookitsanllm" when another machine computes.
    pub device: String,
    /// What the model computes in.
    pub dtype: DType,
}

/// One tokenized prompt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EncodeJob {
    /// At least one; every id below the vocabulary's size.
    pub token_ids: Vec<u32>,
    /// Index into `output_hidden_states`: 0 is the embedding table's output, `layers` the last
    /// layer's after the final norm.
    pub hidden_layer: usize,
    /// Type of the result.
    pub dtype: DType,
}

/// Why nothing came out.
#[derive(Debug, thiserror::Error)]
pub enum EncodeError {
    /// The job cannot be done by this model.
    #[error("{0}")]
    BadJob(String),
    #[error("the device is out of memory for this prompt; shorten it, or run with --cpu-offload")]
    OutOfMemory,
    /// The backend failed; the cause is for the log, not for the caller.
    #[error("the model failed: {0}")]
    Backend(String),
}

/// Owns the weights. Lives on one thread.
pub trait TextEncoder: Send {
    /// The loaded encoder.
    fn info(&self) -> EncoderInfo;
    /// Hidden states of shape `(tokens, hidden_size)`, in the job's dtype.
    ///
    /// # Errors
    ///
    /// [`EncodeError`] if the job does not fit the model, or if the device fails.
    fn encode(&mut self, job: &EncodeJob) -> Result<Tensor, EncodeError>;

    /// Checks that the device works, with a minimum of work.
    ///
    /// # Errors
    ///
    /// [`EncodeError`] if it does not.
    fn probe(&mut self) -> Result<(), EncodeError> {
        Ok(())
    }

    /// What reads the memory of the device it computes on, if that can be read.
    fn memory(&self) -> Option<MemoryReader> {
        None
    }
}

impl EncoderInfo {
    /// Hidden layer used when none is named: the second to last.
    pub const DEFAULT_HIDDEN_LAYER: i32 = -2;

    /// Turns an index as transformers takes it (`-2` is the second to last) into one from 0.
    ///
    /// # Errors
    ///
    /// [`EncodeError::BadJob`] if the model has no such hidden state.
    pub fn resolve_hidden_layer(&self, layer: i32) -> Result<usize, EncodeError> {
        let states = self.layers as i64 + 1;
        let index = if layer < 0 { states + i64::from(layer) } else { i64::from(layer) };
        if (0..states).contains(&index) {
            Ok(index as usize)
        } else {
            Err(EncodeError::BadJob(format!(
                "hidden_layer {layer} is out of range; {} has {} layers, so use {} to {}",
                self.model, self.layers, -states, self.layers
            )))
        }
    }
}
