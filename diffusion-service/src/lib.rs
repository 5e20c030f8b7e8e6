//! The diffusion service: embeddings in, pictures out, over gRPC.

pub mod engine;
mod grpc;
mod handle;
mod load;
pub mod picture;

pub use grpc::run;
pub use handle::{DiffusionHandle, Event, Events, Image, ServiceLimits, Timings};
pub use load::{DiffusionOptions, load};
