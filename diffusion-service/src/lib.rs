//! The diffusion service: embeddings in, pictures out, over gRPC.

mod args;
pub mod dit;
pub mod engine;
mod grpc;
mod guidance;
mod handle;
mod load;
mod lora;
pub mod noise;
pub mod parts;
pub mod picture;
mod pipeline;
pub mod preview;
pub mod schedule;
pub mod source;
mod source_latents;
pub mod vae;

pub use args::BatchArgs;
pub use grpc::run;
pub use handle::{DiffusionHandle, Event, Events, Image, ServiceLimits, Timings};
pub use load::{
    DiffusionOptions, defaults, load, load_decoder, load_dit, load_encoder, load_model,
    synthetic_model,
};
pub use lora::{
    LoraArg, LoraArgs, LoraArgsError, LoraSummary, LorasFolder, LorasFolderError, read_loras,
};
pub use pipeline::ZImage;
