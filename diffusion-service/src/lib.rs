//! The diffusion service: embeddings in, pictures out, over gRPC.

pub mod dit;
pub mod engine;
mod guidance;
mod load;
pub mod noise;
mod pipeline;
pub mod schedule;
pub mod vae;

pub use load::{DiffusionOptions, defaults, load, load_decoder, load_dit, load_encoder};
