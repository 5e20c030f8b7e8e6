//! What may be asked of the encoder, checked before anything is queued.

use llm_dit_chat::{Chat, ChatError, ChatTokenizer};
use llm_dit_params::{MAX_PROMPT_BYTES, ParamError};
use llm_dit_proto::{DType, Fault};

use crate::engine::{EncodeError, EncodeJob, EncoderInfo};

/// Bounds of one encoder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EncoderLimits {
    /// Prompts in one request.
    pub max_prompts: usize,
    /// Tokens a prompt is cut to when the request does not say.
    pub default_max_tokens: usize,
    /// The most a request may say: what Z-Image's caption axis holds.
    pub max_tokens: usize,
    /// Requests that wait while one is encoded.
    pub queue_capacity: usize,
}

impl Default for EncoderLimits {
    fn default() -> Self {
        Self { max_prompts: 64, default_max_tokens: 512, max_tokens: 1504, queue_capacity: 64 }
    }
}

/// Prompts to encode. What is left out takes the encoder's default.
#[derive(Clone, Debug, Default)]
pub struct EncodeRequest {
    pub chats: Vec<Chat>,
    /// As transformers numbers `output_hidden_states`; -2 when unset.
    pub hidden_layer: Option<i32>,
    pub max_tokens: Option<u32>,
    /// Type of the result; what the model computes in when unset.
    pub dtype: Option<DType>,
}

/// One prompt, ready for the engine.
pub(crate) struct Prepared {
    pub job: EncodeJob,
    pub truncated_tokens: usize,
}

impl EncodeRequest {
    /// Checks everything and tokenizes every prompt. Takes milliseconds for long texts.
    ///
    /// A blank user text is fine here, since the empty negative prompt is one; the doors where
    /// people write refuse it.
    pub(crate) fn prepare(
        self,
        info: &EncoderInfo,
        limits: &EncoderLimits,
        tokenizer: &ChatTokenizer,
    ) -> Result<Vec<Prepared>, Fault> {
        let bad = |message: String| Err(Fault::BadRequest(message));
        if self.chats.is_empty() {
            return bad("the request holds no prompt; send at least one".to_owned());
        }
        if self.chats.len() > limits.max_prompts {
            let (n, max) = (self.chats.len(), limits.max_prompts);
            return bad(format!("{n} prompts in one request; send at most {max}"));
        }
        self.chats.iter().try_for_each(check_texts)?;
        let hidden_layer = info
            .resolve_hidden_layer(self.hidden_layer.unwrap_or(EncoderInfo::DEFAULT_HIDDEN_LAYER))
            .map_err(fault)?;
        let max_tokens = self.max_tokens.map_or(limits.default_max_tokens, |n| n as usize);
        if max_tokens == 0 || max_tokens > limits.max_tokens {
            return bad(format!(
                "max_tokens {max_tokens} is out of range; use 1 to {}",
                limits.max_tokens
            ));
        }
        let dtype = self.dtype.unwrap_or(info.dtype);
        self.chats
            .iter()
            .map(|chat| {
                let tokens = tokenizer.tokenize(chat, max_tokens).map_err(chat_fault)?;
                let job = EncodeJob { token_ids: tokens.ids, hidden_layer, dtype };
                Ok(Prepared { job, truncated_tokens: tokens.truncated_tokens })
            })
            .collect()
    }
}

/// What an engine's error means for the caller; internal causes end in the log.
pub(crate) fn fault(error: EncodeError) -> Fault {
    match error {
        EncodeError::BadJob(message) => Fault::BadRequest(message),
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
        | ChatError::MissingToken { .. }
        | ChatError::Tokenizer(_) => {
            tracing::error!(%error, "tokenizing failed");
            Fault::Internal("the tokenizer failed; the encoder's log has the cause".to_owned())
        }
    }
}

fn check_texts(chat: &Chat) -> Result<(), Fault> {
    let texts = [
        ("prompt", &chat.user),
        ("system", &chat.system),
        ("thinking", &chat.thinking),
        ("assistant", &chat.assistant),
    ];
    for (name, text) in texts {
        if text.len() > MAX_PROMPT_BYTES {
            return Err(ParamError::PromptTooLong { name, bytes: text.len() }.into());
        }
    }
    Ok(())
}
