//! The encoder as the rest of the program sees it: cheap to clone, asynchronous, cancellable.
//!
//! The command in one process and the gRPC service both use it, so a prompt is handled in the same
//! way for both.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Instant,
};

use futures::Stream;
use llm_dit_chat::{Chat, ChatTokenizer, TokenCounts};
use llm_dit_engine::{EngineHealth, Ticket};
use llm_dit_fault::Fault;
use llm_dit_heylook::HeylookEncoder;
use llm_dit_memory::{MemoryBudget, Reservation};
use llm_dit_proto::{Tensor, v1};
use llm_dit_telemetry::{
    metrics::{PROMPT_TOKENS, PROMPTS, PROMPTS_CUT, stage},
    request_id,
};
use tokio::{sync::mpsc, task};
use tokio_util::sync::{CancellationToken, DropGuard};
use tracing::Instrument as _;

use crate::{
    backend::{Backend, Encoded, Heylook, Local, Prepared, Queued, Turn},
    engine::{EncoderInfo, TextEncoder},
    request::{EncodeRequest, EncoderLimits, check_texts},
};

/// An encoder and the line before it.
#[derive(Clone, Debug)]
pub struct EncoderHandle {
    backend: Arc<dyn Backend>,
    limits: EncoderLimits,
    memory: MemoryBudget,
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
    /// Tokens that were cut from the user's text; of heylookitsanllm, 1 when some may have been.
    pub truncated_tokens: usize,
}

/// Results in the order of the prompts, each as soon as it is there. Dropping this stops the
/// prompts that are left.
#[derive(Debug)]
pub struct Embeddings {
    receiver: mpsc::Receiver<Result<Embedding, Fault>>,
    _stop: DropGuard,
    _memory: Reservation,
}

/// A request that was let in, on its way through the line.
struct Run {
    cancel: CancellationToken,
    sender: mpsc::Sender<Result<Embedding, Fault>>,
}

impl EncoderHandle {
    /// Moves the engine to a thread of its own.
    ///
    /// # Errors
    ///
    /// Fails if the system refuses the thread.
    pub fn spawn(
        engine: Box<dyn TextEncoder>,
        tokenizer: ChatTokenizer,
        limits: EncoderLimits,
    ) -> io::Result<Self> {
        let backend = Local::spawn(engine, tokenizer, limits.queue_capacity)?;
        Ok(Self { backend: Arc::new(backend), limits, memory: MemoryBudget::default() })
    }

    /// Encodes on a heylookitsanllm server. Must be called inside a tokio runtime.
    ///
    /// # Errors
    ///
    /// Fails outside a tokio runtime, or if the system refuses the thread.
    pub fn heylook(encoder: HeylookEncoder, limits: EncoderLimits) -> io::Result<Self> {
        let backend = Heylook::spawn(encoder, limits.queue_capacity)?;
        Ok(Self { backend: Arc::new(backend), limits, memory: MemoryBudget::default() })
    }

    /// With this budget for the results of requests, instead of one of the default size.
    #[must_use]
    pub fn with_memory(mut self, memory: MemoryBudget) -> Self {
        self.memory = memory;
        self
    }

    /// What the encoder is. Of another machine more is known once it has answered.
    pub fn info(&self) -> EncoderInfo {
        self.backend.info()
    }

    /// The limits that requests are checked against.
    pub fn limits(&self) -> &EncoderLimits {
        &self.limits
    }

    /// The engine's health.
    pub(crate) fn health(&self) -> EngineHealth {
        self.backend.watch_engine();
        self.backend.health()
    }

    /// [`EncoderHandle::info`] and [`EncoderHandle::limits`] as the wire has them.
    pub fn describe(&self) -> v1::EncoderDescription {
        let (info, limits) = (self.info(), &self.limits);
        v1::EncoderDescription {
            model: info.model,
            hidden_size: info.hidden_size as u32,
            layers: info.layers as u32,
            default_hidden_layer: EncoderInfo::DEFAULT_HIDDEN_LAYER,
            default_max_tokens: limits.default_max_tokens as u32,
            max_tokens_limit: limits.max_tokens as u32,
            max_prompts: limits.max_prompts as u32,
            device: info.device,
            dtype: info.dtype.to_wire(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
        }
    }

    /// Counts the tokens of a prompt, before anything is cut.
    ///
    /// # Errors
    ///
    /// [`Fault`] if a text is too long or the tokenizer fails.
    pub async fn count(&self, chat: Chat) -> Result<TokenCounts, Fault> {
        check_texts(&chat)?;
        let backend = Arc::clone(&self.backend);
        let count = move || backend.count(&chat);
        task::spawn_blocking(count).await.map_err(tokenizer_failed)?
    }

    /// Checks every prompt, queues the first, and returns the results to come.
    ///
    /// # Errors
    ///
    /// [`Fault`] if the request is out of bounds, if a prompt cannot be tokenized, or if the queue
    /// or the memory is full.
    pub async fn encode(
        &self,
        request: EncodeRequest,
        cancel: &CancellationToken,
    ) -> Result<Embeddings, Fault> {
        let ask = request.check(&self.limits)?;
        let backend = Arc::clone(&self.backend);
        let prepare = move || {
            let chats = request.chats.iter();
            chats.map(|chat| backend.prepare(chat, &ask)).collect::<Result<Vec<_>, _>>()
        };
        let begun = Instant::now();
        let prepared = task::spawn_blocking(prepare).instrument(tracing::info_span!("tokenize"));
        let prepared = prepared.await.map_err(tokenizer_failed)??;
        stage("tokenize", begun.elapsed());

        // A slow reader holds one result, and the next one waits behind it.
        let largest = prepared.iter().map(|prompt| prompt.bytes).max().unwrap_or(0);
        let held = largest * prepared.len().min(2) as u64;
        let memory = self.memory.reserve("the embeddings of the prompts", held)?;
        let cancel = cancel.child_token();
        let (sender, receiver) = mpsc::channel(1);
        let run = Run { cancel: cancel.clone(), sender };
        let mut prompts = prepared.into_iter();
        if let Some(first) = prompts.next() {
            let ticket = first.queue(&cancel, Turn::First)?;
            tokio::spawn(request_id::keep(run.finish(ticket, prompts)).in_current_span());
        }
        Ok(Embeddings { receiver, _stop: cancel.drop_guard(), _memory: memory })
    }
}

fn tokenizer_failed(error: task::JoinError) -> Fault {
    tracing::error!(%error, "tokenizing failed");
    Fault::Internal("the tokenizer failed; the log has the cause".to_owned())
}

impl Run {
    /// Waits for one prompt after the other. The next is queued only when the last result was
    /// taken, so a slow reader makes us keep one tensor and never makes the engine wait.
    async fn finish(
        self,
        first: Ticket<Result<Encoded, Fault>>,
        rest: impl Iterator<Item = Prepared>,
    ) {
        let begun = Instant::now();
        let Some(mut tokens) = self.deliver(0, Ok(first)).await else { return };
        let mut prompts = 1;
        for (index, next) in (1..).zip(rest) {
            let Ok(room) = self.sender.reserve().await else { return };
            drop(room);
            let ticket = next.queue(&self.cancel, Turn::Next);
            let Some(more) = self.deliver(index, ticket).await else { return };
            prompts += 1;
            tokens += more;
        }
        tracing::info!(prompts, tokens, seconds = begun.elapsed().as_secs_f64(), "encoded");
    }

    /// Number of the prompt's tokens; `None` when the caller has left.
    async fn deliver(&self, index: usize, queued: Queued) -> Option<usize> {
        let result = match queued {
            Ok(ticket) => ticket.wait().await.and_then(|result| result),
            Err(fault) => Err(fault),
        };
        count(&result);
        let result = result.map(|Encoded { tensor, hidden_layer, truncated_tokens }| Embedding {
            index,
            tensor,
            hidden_layer,
            truncated_tokens,
        });
        let tokens = result.as_ref().ok().map(|embedding| embedding.tensor.shape()[0]);
        self.sender.send(result).await.ok()?;
        tokens
    }
}

/// In metrics.
fn count(result: &Result<Encoded, Fault>) {
    let outcome = match result {
        Ok(encoded) => {
            metrics::counter!(PROMPT_TOKENS.name).increment(encoded.tensor.shape()[0] as u64);
            metrics::counter!(PROMPTS_CUT.name).increment((encoded.truncated_tokens > 0).into());
            "done"
        }
        Err(Fault::Cancelled(_)) => "cancelled",
        Err(_) => "failed",
    };
    metrics::counter!(PROMPTS.name, "outcome" => outcome).increment(1);
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
