//! The diffusion service: embeddings in, pictures out, over gRPC.

pub mod engine;
mod load;

pub use load::{DiffusionOptions, load};
