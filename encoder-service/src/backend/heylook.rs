//! A heylookitsanllm server. The thread that would own a model waits for the answers instead, so
//! that queue, limits and cancellation are the same as for a local model.

use std::{io, time::Duration};

use llm_dit_chat::{Chat, TokenCounts};
use llm_dit_engine::{EngineHealth, Worker};
use llm_dit_fault::Fault;
use llm_dit_heylook::{HeylookEncoder, HeylookError, ModelShape};
use llm_dit_proto::DType;
use llm_dit_telemetry::metrics::{Observer, observe_service};
use tokio::{runtime, time};

use crate::{
    backend::{Ask, Backend, Encoded, Prepared},
    engine::EncoderInfo,
};

/// How long the server may take to say what it is.
const PATIENCE: Duration = Duration::from_secs(10);

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
    /// The server's version, or why it cannot encode, when it was asked last.
    last: Option<Result<String, String>>,
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
        let caller = Caller { encoder: encoder.clone(), runtime, last: None };
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
        Ok(Prepared::new(&self.worker, bytes, move |Caller { encoder, runtime, .. }| {
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

    fn health(&self) -> EngineHealth {
        self.worker.health().clone()
    }

    /// In the queue, since the server does not answer while it encodes.
    fn watch_engine(&self) {
        self.worker.follow(Caller::is_there);
    }
}

impl Caller {
    /// Whether the server could encode now. The log has each change once.
    fn is_there(&mut self) -> bool {
        let asked = async { time::timeout(PATIENCE, about(&self.encoder)).await };
        let silent = || Err(format!("it did not answer within {} s", PATIENCE.as_secs()));
        let state = self.runtime.block_on(asked).unwrap_or_else(|_| silent());
        let works = state.is_ok();
        if self.last.as_ref() != Some(&state) {
            let (url, model) = (self.encoder.url(), self.encoder.model());
            match &state {
                Ok(version) => tracing::info!(url, model, version, "connected to heylookitsanllm"),
                Err(reason) => tracing::warn!(url, "{reason}"),
            }
            self.last = Some(state);
        }
        works
    }
}

/// The server's version, or why it cannot encode.
async fn about(encoder: &HeylookEncoder) -> Result<String, String> {
    let about = encoder.about().await.map_err(|error| error.to_string())?;
    match about.objection(encoder.model()) {
        None => Ok(about.version.unwrap_or_else(|| "unknown".to_owned())),
        Some(objection) => Err(objection),
    }
}

/// The server's message goes to the log; the caller gets an error that it can act on.
fn logged(error: HeylookError) -> Fault {
    tracing::error!(%error, "encoding failed");
    error.into()
}
