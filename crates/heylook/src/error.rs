//! Errors of setting up the client and of its requests, and what our own callers see of them.

use std::time::Duration;

use llm_dit_fault::Fault;
use llm_dit_proto::DType;
use llm_dit_serving::{
    client::BadUrl,
    security::{SecurityError, keys::Unsendable},
};

/// Why the client cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    #[error(transparent)]
    Url(#[from] BadUrl),
    /// The URL is not repeated, since it holds a secret.
    #[error(
        "the heylookitsanllm URL contains a user name or password; remove them and set the key with --api-key-file"
    )]
    SecretInUrl,
    #[error(
        "the model name is empty; use its name on the heylookitsanllm server, such as Qwen3-4B"
    )]
    EmptyModel,
    #[error(transparent)]
    Security(#[from] SecurityError),
    #[error(transparent)]
    Key(#[from] Unsendable),
    #[error("cannot set up HTTP: {0}")]
    Http(#[from] reqwest::Error),
}

/// Why no embeddings came. The messages are for the operator of this program; a remote caller gets
/// the [`Fault`].
#[derive(Debug, thiserror::Error)]
pub enum HeylookError {
    #[error(
        "the {part} contains the special token {token}, which heylookitsanllm would not treat as text; remove it, or use the local encoder, which treats it as text"
    )]
    SpecialToken { part: &'static str, token: &'static str },
    #[error("there is no text to encode")]
    EmptyText,
    #[error("max_length {0} is out of range; use 1 to {max}", max = u32::MAX)]
    BadMaxLength(usize),
    #[error("hidden_layer {layer} is out of range; {model} has {layers} layers, so use -{layers} to -2 or 1 to {last}", last = .layers.saturating_sub(1))]
    LayerOutOfRange { layer: i32, layers: usize, model: String },
    #[error("hidden_layer {layer} is {what}, which heylookitsanllm does not return; use -{max} to -2 or 1 to {last}, or the local encoder", max = .last + 1)]
    UnreachableLayer { layer: i32, what: &'static str, last: i64 },
    #[error("heylookitsanllm truncates at the end of the chat; omit truncate, or use 'end'")]
    Truncation,
    #[error("the hidden states contain values outside the range of {0}; request bf16 or f32")]
    DoesNotFit(DType),
    #[error("heylookitsanllm at {url} cannot be reached: {cause}")]
    Unreachable { url: String, cause: String },
    #[error("heylookitsanllm at {url} did not answer within {seconds} s; is it loading a model that does not fit its memory?", seconds = .after.as_secs())]
    TimedOut { url: String, after: Duration },
    #[error("heylookitsanllm at {url} is busy: {detail}")]
    Busy { url: String, detail: String, retry_after: Duration },
    #[error("heylookitsanllm at {url} {}", if *.key_sent {
        "does not accept the API key; check --api-key-file against its HEYLOOK_API_KEY"
    } else {
        "requires an API key; set its HEYLOOK_API_KEY with --api-key-file"
    })]
    Unauthorized { url: String, key_sent: bool },
    #[error(
        "the server at {url} has no /v1/hidden_states ({status}); is it heylookitsanllm, of December 2025 or newer?"
    )]
    NoEndpoint { url: String, status: u16 },
    #[error(
        "heylookitsanllm at {url} does not have the model: {detail}; choose one with --api-model"
    )]
    UnknownModel { url: String, detail: String },
    #[error(
        "the server at {url} redirects to {location}; redirects are not followed, so use the final URL for --api-url"
    )]
    Redirected { url: String, location: String },
    #[error("heylookitsanllm at {url} does not accept a request of this size: {detail}")]
    TooLarge { url: String, detail: String },
    #[error("heylookitsanllm at {url} refused ({status}): {detail}")]
    Refused { url: String, status: u16, detail: String },
    #[error("heylookitsanllm at {url} failed ({status}): {detail}")]
    Failed { url: String, status: u16, detail: String },
    #[error(
        "heylookitsanllm at {url} returned layer {got} instead of {asked}; remove default_hidden_layer from its models.toml, or use --hidden-layer {instead}, which it does not replace"
    )]
    LayerReplaced { url: String, asked: i64, got: i64, instead: usize },
    #[error(
        "heylookitsanllm at {url} returned embeddings of width {got}, not {expected}; {model} is not the expected text encoder"
    )]
    WrongWidth { url: String, model: String, got: usize, expected: usize },
    #[error("heylookitsanllm at {url} returned an invalid response: {reason}")]
    BadAnswer { url: String, reason: String },
}

impl HeylookError {
    /// True when the same request may well succeed the next moment.
    pub(crate) fn is_passing(&self) -> bool {
        match self {
            Self::Failed { .. } => true,
            Self::SpecialToken { .. }
            | Self::EmptyText
            | Self::BadMaxLength(_)
            | Self::LayerOutOfRange { .. }
            | Self::UnreachableLayer { .. }
            | Self::Truncation
            | Self::DoesNotFit(_)
            | Self::Unreachable { .. }
            | Self::TimedOut { .. }
            | Self::Busy { .. }
            | Self::Unauthorized { .. }
            | Self::NoEndpoint { .. }
            | Self::UnknownModel { .. }
            | Self::Redirected { .. }
            | Self::TooLarge { .. }
            | Self::Refused { .. }
            | Self::LayerReplaced { .. }
            | Self::WrongWidth { .. }
            | Self::BadAnswer { .. } => false,
        }
    }
}

/// A caller learns what is wrong with the request. What is wrong with the server behind us is for
/// who runs it: log the error itself before it becomes a fault.
impl From<HeylookError> for Fault {
    fn from(error: HeylookError) -> Self {
        let message = error.to_string();
        match error {
            HeylookError::SpecialToken { .. }
            | HeylookError::EmptyText
            | HeylookError::BadMaxLength(_)
            | HeylookError::LayerOutOfRange { .. }
            | HeylookError::DoesNotFit(_) => Self::BadRequest(message),
            HeylookError::TooLarge { .. } => Self::TooLarge(message),
            HeylookError::UnreachableLayer { .. }
            | HeylookError::Truncation
            | HeylookError::Unauthorized { .. }
            | HeylookError::NoEndpoint { .. }
            | HeylookError::UnknownModel { .. }
            | HeylookError::Redirected { .. }
            | HeylookError::Refused { .. }
            | HeylookError::LayerReplaced { .. }
            | HeylookError::WrongWidth { .. } => Self::Unsupported(message),
            HeylookError::Unreachable { .. } => Self::Unavailable(message),
            HeylookError::TimedOut { .. } => Self::Deadline(message),
            HeylookError::Busy { retry_after, .. } => Self::Busy { message, retry_after },
            HeylookError::Failed { .. } | HeylookError::BadAnswer { .. } => {
                Self::Internal("heylookitsanllm failed; the encoder's log has the cause".to_owned())
            }
        }
    }
}
