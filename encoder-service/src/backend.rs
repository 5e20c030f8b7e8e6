//! Where prompts are encoded: by a model on a thread of this process, or by another server. The
//! handle treats both alike.

mod heylook;
mod local;

use std::{fmt::Debug, time::Instant};

use llm_dit_chat::{Chat, TokenCounts};
use llm_dit_engine::{EngineHealth, Ticket, Worker};
use llm_dit_fault::Fault;
use llm_dit_params::Truncation;
use llm_dit_proto::{DType, Tensor};
use llm_dit_telemetry::metrics::stage;
use tokio_util::sync::CancellationToken;

use crate::engine::EncoderInfo;

pub(crate) use self::{heylook::Heylook, local::Local};

/// Turns prompts into embeddings.
pub(crate) trait Backend: Debug + Send + Sync {
    fn info(&self) -> EncoderInfo;
    /// Checks one prompt and makes it ready for its turn. Takes milliseconds for a long text.
    fn prepare(&self, chat: &Chat, ask: &Ask) -> Result<Prepared, Fault>;
    /// What a prompt costs. Takes milliseconds for a long text.
    fn count(&self, chat: &Chat) -> Result<TokenCounts, Fault>;
    /// How the engine is.
    fn health(&self) -> EngineHealth;
    /// Keeps its health up to date while there is no work for it. Called inside a tokio runtime.
    fn watch_engine(&self);
}

/// What holds for every prompt of a request.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ask {
    /// As transformers numbers `output_hidden_states`.
    pub hidden_layer: i32,
    pub max_tokens: usize,
    pub truncation: Option<Truncation>,
    /// What the model computes in when unset.
    pub dtype: Option<DType>,
}

/// One prompt's result.
#[derive(Debug)]
pub(crate) struct Encoded {
    /// `(tokens, hidden_size)`.
    pub tensor: Tensor,
    /// Index into `output_hidden_states`, from 0.
    pub hidden_layer: usize,
    pub truncated_tokens: usize,
}

/// One prompt, ready to be queued.
pub(crate) struct Prepared {
    /// Most bytes of the result.
    pub bytes: u64,
    queue: Box<Queue>,
}

/// Where a prompt stands in its request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Turn {
    /// Refused when the queue is full.
    First,
    /// Queued in any case; see [`Worker::submit_next`].
    Next,
}

pub(crate) type Queued = Result<Ticket<Result<Encoded, Fault>>, Fault>;

type Queue = dyn FnOnce(&CancellationToken, Turn) -> Queued + Send;

impl Prepared {
    /// `work` for what `worker` owns, with a result of at most `bytes`.
    fn new<M: Send + 'static>(
        worker: &Worker<M>,
        bytes: usize,
        work: impl FnOnce(&mut M) -> Result<Encoded, Fault> + Send + 'static,
    ) -> Self {
        let worker = worker.clone();
        let work = move |model: &mut M| {
            let begun = Instant::now();
            let encoded = tracing::info_span!("encode").in_scope(|| work(model));
            stage("encode", begun.elapsed());
            encoded
        };
        let queue = Box::new(move |cancel: &CancellationToken, turn| match turn {
            Turn::First => worker.submit(cancel, work),
            Turn::Next => Ok(worker.submit_next(cancel, work)),
        });
        Self { bytes: bytes as u64, queue }
    }

    /// Puts the prompt in the worker's queue.
    pub fn queue(self, cancel: &CancellationToken, turn: Turn) -> Queued {
        (self.queue)(cancel, turn)
    }
}
