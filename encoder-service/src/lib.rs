//! The encoder service: prompts in, the text encoder's hidden states out, over gRPC.

pub mod engine;
mod load;

pub use load::{EncoderOptions, load};
