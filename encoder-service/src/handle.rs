//! The encoder as the rest of the program sees it: cheap to clone, asynchronous, cancellable.
//!
//! The command in one process and the gRPC service both use it, so a prompt takes the same way
//! whichever door it came through.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Instant,
};

use futures::Stream;
use llm_dit_chat::ChatTokenizer;
use llm_dit_proto::{Fault, Tensor, v1};
use llm_dit_serving::{Ticket, Worker};
use tokio::{sync::mpsc, task};
use tokio_util::sync::{CancellationToken, DropGuard};
use tracing::Instrument as _;

use crate::{
    engine::{EncodeError, EncoderInfo, TextEncoder},
    request::{self, EncodeRequest, EncoderLimits, Prepared},
};

/// A loaded encoder on its thread.
#[derive(Clone, Debug)]
pub struct EncoderHandle {
    worker: Worker<Box<dyn TextEncoder>>,
    shared: Arc<Shared>,
}

/// One prompt's result.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Embedding {
    /// Which prompt of the request, from 0.
    pub index: usize,
    /// `(tokens, hidden_size)`.
    pub tensor: Tensor,
    /// Index into `output_hidden_states`, from 0.
    pub hidden_layer: usize,
    /// Tokens that were cut from the user's text.
    pub truncated_tokens: usize,
}

/// Results in the order of the prompts, each as soon as it is there. Dropping this stops the
/// prompts that are left.
#[derive(Debug)]
pub struct Embeddings {
    receiver: mpsc::Receiver<Result<Embedding, Fault>>,
    _stop: DropGuard,
}

#[derive(Debug)]
struct Shared {
    info: EncoderInfo,
    limits: EncoderLimits,
    tokenizer: ChatTokenizer,
}

/// A request that was let in, on its way through the worker.
struct Run {
    handle: EncoderHandle,
    cancel: CancellationToken,
    sender: mpsc::Sender<Result<Embedding, Fault>>,
}

impl EncoderHandle {
    /// Moves the engine to a thread of its own.
    pub fn spawn(
        engine: Box<dyn TextEncoder>,
        tokenizer: ChatTokenizer,
        limits: EncoderLimits,
    ) -> io::Result<Self> {
        let info = engine.info();
        let worker = Worker::spawn("text encoder", limits.queue_capacity, engine)?;
        Ok(Self { worker, shared: Arc::new(Shared { info, limits, tokenizer }) })
    }

    pub fn info(&self) -> &EncoderInfo {
        &self.shared.info
    }

    pub fn limits(&self) -> &EncoderLimits {
        &self.shared.limits
    }

    /// [`EncoderHandle::info`] and [`EncoderHandle::limits`] as the wire has them.
    pub fn describe(&self) -> v1::EncoderDescription {
        let Shared { info, limits, .. } = &*self.shared;
        v1::EncoderDescription {
            model: info.model.clone(),
            hidden_size: info.hidden_size as u32,
            layers: info.layers as u32,
            default_hidden_layer: EncoderInfo::DEFAULT_HIDDEN_LAYER,
            default_max_tokens: limits.default_max_tokens as u32,
            max_tokens_limit: limits.max_tokens as u32,
            max_prompts: limits.max_prompts as u32,
            device: info.device.clone(),
            dtype: info.dtype.to_wire(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
        }
    }

    /// Checks and tokenizes every prompt, queues the first, and returns the results to come.
    pub async fn encode(
        &self,
        request: EncodeRequest,
        cancel: &CancellationToken,
    ) -> Result<Embeddings, Fault> {
        let shared = Arc::clone(&self.shared);
        let prepare = move || request.prepare(&shared.info, &shared.limits, &shared.tokenizer);
        let prepared = task::spawn_blocking(prepare).await.map_err(|error| {
            tracing::error!(%error, "tokenizing failed");
            Fault::Internal("the tokenizer failed; the log has the cause".to_owned())
        })??;

        let cancel = cancel.child_token();
        let (sender, receiver) = mpsc::channel(1);
        let run = Run { handle: self.clone(), cancel: cancel.clone(), sender };
        let mut prompts = prepared.into_iter();
        if let Some(first) = prompts.next() {
            let (job, rest) = (first.job.clone(), prompts);
            let ticket = self.worker.submit(&cancel, move |engine| engine.encode(&job))?;
            tokio::spawn(run.finish(first, ticket, rest).in_current_span());
        }
        Ok(Embeddings { receiver, _stop: cancel.drop_guard() })
    }
}

impl Run {
    /// Waits for one prompt after the other. The next is queued only when the last result was
    /// taken, so a slow reader makes us keep one tensor and never makes the engine wait.
    async fn finish(
        self,
        first: Prepared,
        ticket: Ticket<Result<Tensor, EncodeError>>,
        rest: impl Iterator<Item = Prepared>,
    ) {
        let begun = Instant::now();
        let (mut prompts, mut tokens) = (1, first.job.token_ids.len());
        if !self.deliver(0, first, ticket).await {
            return;
        }
        for (index, next) in (1..).zip(rest) {
            let Ok(room) = self.sender.reserve().await else { return };
            drop(room);
            prompts += 1;
            tokens += next.job.token_ids.len();
            let job = next.job.clone();
            let work = move |engine: &mut Box<dyn TextEncoder>| engine.encode(&job);
            let ticket = self.handle.worker.submit_next(&self.cancel, work);
            if !self.deliver(index, next, ticket).await {
                return;
            }
        }
        tracing::info!(prompts, tokens, seconds = begun.elapsed().as_secs_f64(), "encoded");
    }

    /// False when there is nobody left to go on for.
    async fn deliver(
        &self,
        index: usize,
        prompt: Prepared,
        ticket: Ticket<Result<Tensor, EncodeError>>,
    ) -> bool {
        let Prepared { job, truncated_tokens } = prompt;
        let result = match ticket.wait().await {
            Ok(Ok(tensor)) => {
                let hidden_layer = job.hidden_layer;
                Ok(Embedding { index, tensor, hidden_layer, truncated_tokens })
            }
            Ok(Err(error)) => Err(request::fault(error)),
            Err(fault) => Err(fault),
        };
        let well = result.is_ok();
        self.sender.send(result).await.is_ok() && well
    }
}

impl Embeddings {
    /// The next result, `None` after the last.
    pub async fn next(&mut self) -> Option<Result<Embedding, Fault>> {
        self.receiver.recv().await
    }
}

impl Stream for Embeddings {
    type Item = Result<Embedding, Fault>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.receiver.poll_recv(cx)
    }
}
