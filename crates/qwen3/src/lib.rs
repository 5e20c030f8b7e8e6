//! Qwen3 as a text encoder: from a model folder to hidden states.
//!
//! [`load`] gives a [`llm_dit_engine::text::TextEncoder`] and its tokenizer. Names in the model mirror
//! the checkpoint.

mod config;
mod load;
mod model;
pub mod names;

pub use config::Config;
pub use load::{EncoderOptions, load, load_encoder, measure, synthetic_encoder};
pub use model::Qwen3;
