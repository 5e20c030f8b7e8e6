//! A heylookitsanllm server. The thread that would own a model waits for the answers instead, so
//! that queue, limits and cancellation are the same as for a local model.

use std::io;

use llm_dit_chat::{Chat, TokenCounts};
use llm_dit_engine::Worker;
use llm_dit_fault::Fault;
use llm_dit_heylook::{HeylookEncoder, HeylookError, ModelShape};
use llm_dit_proto::DType;
use llm_dit_telemetry::metrics::{Observer, observe_service};
use tokio::runtime;

use crate::{
    backend::{Ask, Backend, Encoded, Prepared},
    engine::EncoderInfo,
};

#[derive(Debug)]
pub(crate) struct Heylook {
    encoder: HeylookEncoder,
    worker: Worker<Caller>,
    _observer: Observer,
}

/// Asks from a thread that may wait.
struct Caller {
    encoder: HeylookEncoder,
    runtime: runtime::Handle,
}

impl Heylook {
    /// Starts the thread that sends the requests, one at a time. Must be called inside a tokio
    /// runtime.
    ///
    /// # Errors
    ///
    /// Fails outside a tokio runtime, or if the system refuses the thread.
    pub fn spawn(encoder: HeylookEncoder, queue_capacity: usize) -> io::Result<Self> {
        let runtime = runtime::Handle::try_current().map_err(io::Error::other)?;
        let caller = Caller { encoder: encoder.clone(), runtime };
        let worker = Worker::spawn("heylookitsanllm", queue_capacity, caller)?;
        // The memory is another machine's.
        let observer = observe_service("encoder", "heylookitsanllm".to_owned(), || None);
        Ok(Self { encoder, worker, _observer: observer })
    }
}

impl Backend for Heylook {
    fn info(&self) -> EncoderInfo {
        let ModelShape { hidden_size, layers } = self.encoder.shape();
        EncoderInfo {
            model: self.encoder.model().to_owned(),
            hidden_size,
            layers,
            device: "heylookitsanllm".to_owned(),
            dtype: self.encoder.dtype(),
        }
    }

    fn prepare(&self, chat: &Chat, ask: &Ask) -> Result<Prepared, Fault> {
        self.encoder.check_layer(ask.hidden_layer)?;
        llm_dit_heylook::check_truncation(ask.truncation)?;
        let text = llm_dit_heylook::format(chat)?;
        let Ask { hidden_layer, max_tokens, dtype, .. } = *ask;
        let size = dtype.map_or(DType::F32.size(), DType::size);
        let bytes = max_tokens * self.encoder.shape().hidden_size * size;
        Ok(Prepared::new(&self.worker, bytes, move |Caller { encoder, runtime }| {
            let asking = encoder.encode(&text, hidden_layer, max_tokens, dtype);
            let encoded = runtime.block_on(asking).map_err(logged)?;
            if encoded.hit_limit {
                tracing::warn!(
                    max_tokens,
                    "a prompt has exactly the maximum number of tokens; if it was longer, the server truncated it"
                );
            }
            Ok(Encoded {
                tensor: encoded.tensor,
                hidden_layer: encoded.hidden_layer,
                // How many is not known.
                truncated_tokens: usize::from(encoded.hit_limit),
            })
        }))
    }

    fn count(&self, _: &Chat) -> Result<TokenCounts, Fault> {
        Err(Fault::Unsupported(
            "heylookitsanllm tokenizes prompts itself and does not report token counts".to_owned(),
        ))
    }
}

/// The server's message goes to the log; the caller gets an error that it can act on.
fn logged(error: HeylookError) -> Fault {
    tracing::error!(%error, "encoding failed");
    error.into()
}
