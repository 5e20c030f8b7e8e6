//! Embeddings from a [heylookitsanllm](https://github.com/fblissjr/heylookitsanllm) server: a Mac
//! that runs Qwen3 under MLX and hands out hidden states over HTTP.
//!
//! The server takes text and turns it into tokens itself. The chat is laid out here, so that it is
//! the same whichever machine encodes. Every answer is checked before it is used: a wrong layer, a
//! cut tensor or a NaN would spoil a picture silently.
//!
//! Decision: one request at a time goes to a server. It computes on the thread that also answers,
//! so a second request would only wait there, where we cannot withdraw it.

mod about;
mod answer;
pub mod args;
mod encoder;
mod error;
mod format;
mod layer;
mod refusal;
mod server;
mod truncation;

pub use about::{About, AboutModel};
pub use encoder::{Encoded, HeylookEncoder, ModelShape};
pub use error::{HeylookError, SetupError};
pub use format::format;
pub use llm_dit_serving::security::Key as ApiKey;
pub use server::{HeylookOptions, HeylookServer};
pub use truncation::check_truncation;
