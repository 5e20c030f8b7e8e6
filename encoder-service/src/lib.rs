//! The encoder service: prompts in, the text encoder's hidden states out, over gRPC.

pub mod engine;
mod load;
mod qwen3;

pub use load::{EncoderOptions, load, load_encoder};
