//! A [`TextEncoder`] on its thread, behind a tokenizer.

use std::io;

use llm_dit_chat::{Chat, ChatError, ChatTokenizer, TokenCounts};
use llm_dit_engine::{EngineHealth, Worker, stall_limit};
use llm_dit_fault::Fault;
use llm_dit_telemetry::metrics::{Observer, observe_service};

use crate::{
    backend::{Ask, Backend, Encoded, Prepared},
    engine::{EncodeError, EncodeJob, EncoderInfo, TextEncoder},
};

#[derive(Debug)]
pub(crate) struct Local {
    info: EncoderInfo,
    tokenizer: ChatTokenizer,
    worker: Worker<Box<dyn TextEncoder>>,
    _observer: Observer,
}

impl Local {
    /// Moves the engine to a thread of its own.
    ///
    /// # Errors
    ///
    /// Fails if the system refuses the thread.
    pub fn spawn(
        engine: Box<dyn TextEncoder>,
        tokenizer: ChatTokenizer,
        queue_capacity: usize,
    ) -> io::Result<Self> {
        let info = engine.info();
        let memory = engine.memory();
        let observer = observe_service("encoder", info.device.clone(), move || memory.as_ref()?());
        let worker = Worker::spawn("text encoder", queue_capacity, engine)?;
        Ok(Self { info, tokenizer, worker, _observer: observer })
    }
}

impl Backend for Local {
    fn info(&self) -> EncoderInfo {
        self.info.clone()
    }

    fn prepare(&self, chat: &Chat, ask: &Ask) -> Result<Prepared, Fault> {
        let hidden_layer = self.info.resolve_hidden_layer(ask.hidden_layer).map_err(fault)?;
        let tokens =
            self.tokenizer.tokenize_to(chat, ask.max_tokens, ask.truncation.unwrap_or_default());
        let tokens = tokens.map_err(chat_fault)?;
        let truncated_tokens = tokens.truncated_tokens;
        let dtype = ask.dtype.unwrap_or(self.info.dtype);
        let bytes = tokens.ids.len() * self.info.hidden_size * dtype.size();
        let job = EncodeJob { token_ids: tokens.ids, hidden_layer, dtype };
        let health = self.worker.health().clone();
        Ok(Prepared::new(&self.worker, bytes, move |engine| {
            let encoded = engine.encode(&job);
            match &encoded {
                Ok(_) => health.worked(),
                Err(EncodeError::Backend(_)) => health.failed(),
                // These say nothing about the engine.
                Err(EncodeError::OutOfMemory | EncodeError::BadJob(_)) => {}
            }
            let tensor = encoded.map_err(fault)?;
            Ok(Encoded { tensor, hidden_layer, truncated_tokens })
        }))
    }

    fn health(&self) -> EngineHealth {
        self.worker.health().clone()
    }

    fn watch_engine(&self) {
        self.worker.probe_while_unhealthy(|engine| engine.probe().is_ok());
        self.worker.health().watch_progress(stall_limit(self.info.device == "cpu"));
    }

    fn count(&self, chat: &Chat) -> Result<TokenCounts, Fault> {
        self.tokenizer.count(chat).map_err(chat_fault)
    }
}

/// What an engine's error means for the caller; internal causes end in the log.
fn fault(error: EncodeError) -> Fault {
    match error {
        EncodeError::BadJob(message) => Fault::BadRequest(message),
        EncodeError::OutOfMemory => Fault::OutOfMemory(error.to_string()),
        EncodeError::Backend(cause) => {
            tracing::error!(cause, "encoding failed");
            Fault::Internal("the text encoder failed; its log has the cause".to_owned())
        }
    }
}

fn chat_fault(error: ChatError) -> Fault {
    match error {
        ChatError::NoRoom { .. } => Fault::BadRequest(error.to_string()),
        ChatError::Io { .. }
        | ChatError::Invalid { .. }
        | ChatError::NoTokenizer { .. }
        | ChatError::MissingToken { .. }
        | ChatError::Tokenizer(_) => {
            tracing::error!(%error, "tokenizing failed");
            Fault::Internal("the tokenizer failed; the encoder's log has the cause".to_owned())
        }
    }
}
