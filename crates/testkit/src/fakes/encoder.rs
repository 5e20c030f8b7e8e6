//! A text encoder whose "hidden states" are a formula.

use encoder_service::engine::{EncodeError, EncodeJob, EncoderInfo, TextEncoder};
use llm_dit_proto::{DType, Tensor};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

/// Reports every job that reaches it.
#[derive(Debug)]
pub struct FakeEncoder {
    info: EncoderInfo,
    seen: UnboundedSender<EncodeJob>,
}

impl FakeEncoder {
    pub fn new(hidden_size: usize) -> (Self, UnboundedReceiver<EncodeJob>) {
        let (seen, jobs) = unbounded_channel();
        let info = EncoderInfo {
            model: "fake-encoder".to_owned(),
            hidden_size,
            layers: 4,
            device: "cpu".to_owned(),
            dtype: DType::F32,
        };
        (Self { info, seen }, jobs)
    }

    /// What [`FakeEncoder`] answers.
    pub fn expected(job: &EncodeJob, hidden_size: usize) -> Tensor {
        let mut values = Vec::new();
        for (position, &id) in job.token_ids.iter().enumerate() {
            for axis in 0..hidden_size {
                let n = id as usize * 31 + position * 17 + axis * 7 + job.hidden_layer * 3;
                values.push((n % 1009) as f32 / 1009.0 - 0.5);
            }
        }
        Tensor::from_f32(&values, vec![job.token_ids.len(), hidden_size], job.dtype)
            .expect("as many values as the shape says")
    }
}

impl TextEncoder for FakeEncoder {
    fn info(&self) -> EncoderInfo {
        self.info.clone()
    }

    fn encode(&mut self, job: &EncodeJob) -> Result<Tensor, EncodeError> {
        let _ = self.seen.send(job.clone());
        Ok(Self::expected(job, self.info.hidden_size))
    }
}
