//! Requests to the encoder, checked before anything is queued.

use llm_dit_chat::Chat;
use llm_dit_fault::Fault;
use llm_dit_params::{MAX_PROMPT_BYTES, ParamError, Truncation, bounds::MAX_TOKENS};
use llm_dit_proto::DType;
use llm_dit_serving::Grace;

use crate::{backend::Ask, engine::EncoderInfo};

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
    pub grace: Grace,
}

impl Default for EncoderLimits {
    fn default() -> Self {
        Self {
            max_prompts: 64,
            default_max_tokens: 512,
            max_tokens: MAX_TOKENS as usize,
            queue_capacity: 64,
            grace: Grace::default(),
        }
    }
}

/// Prompts to encode. What is left out takes the encoder's default.
#[derive(Clone, Debug, Default)]
pub struct EncodeRequest {
    pub chats: Vec<Chat>,
    /// As transformers numbers `output_hidden_states`; -2 when unset.
    pub hidden_layer: Option<i32>,
    pub max_tokens: Option<u32>,
    /// Where a chat is cut that has more; at the end of the prompt when unset, as far as the
    /// encoder can.
    pub truncation: Option<Truncation>,
    /// Type of the result; what the model computes in when unset.
    pub dtype: Option<DType>,
}

impl EncodeRequest {
    /// Checks all that can be checked before a prompt's tokens are known.
    ///
    /// A blank user text is fine here, since the empty negative prompt is one; the doors where
    /// people write refuse it.
    pub(crate) fn check(&self, limits: &EncoderLimits) -> Result<Ask, Fault> {
        let bad = |message: String| Err(Fault::BadRequest(message));
        if self.chats.is_empty() {
            return bad("the request contains no prompt; send at least one".to_owned());
        }
        if self.chats.len() > limits.max_prompts {
            let (n, max) = (self.chats.len(), limits.max_prompts);
            return bad(format!("{n} prompts in one request; send at most {max}"));
        }
        self.chats.iter().try_for_each(check_texts)?;
        let max_tokens = self.max_tokens.map_or(limits.default_max_tokens, |n| n as usize);
        if max_tokens == 0 || max_tokens > limits.max_tokens {
            return bad(format!(
                "max_tokens {max_tokens} is out of range; use 1 to {}",
                limits.max_tokens
            ));
        }
        let hidden_layer = self.hidden_layer.unwrap_or(EncoderInfo::DEFAULT_HIDDEN_LAYER);
        Ok(Ask { hidden_layer, max_tokens, truncation: self.truncation, dtype: self.dtype })
    }
}

pub(crate) fn check_texts(chat: &Chat) -> Result<(), Fault> {
    let texts = [
        ("prompt", &chat.user),
        ("system", &chat.system),
        ("thinking", &chat.thinking),
        ("assistant", &chat.assistant),
    ];
    let history = chat.history.iter().flat_map(|e| [&e.user, &e.thinking, &e.assistant]);
    for (name, text) in texts.into_iter().chain(history.map(|text| ("history", text))) {
        if text.len() > MAX_PROMPT_BYTES {
            return Err(ParamError::PromptTooLong { name, bytes: text.len() }.into());
        }
    }
    Ok(())
}
