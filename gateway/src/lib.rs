//! The gateway: HTTP in front of the encoder and diffusion services.
//!
//! Embeddings pass through it chunk by chunk, and the most recent ones are cached. It depends on no
//! tensor library, so that it runs on machines without a model. Its durable state, jobs and
//! pictures, is in one database.

mod admission;
mod api;
mod app;
mod backends;
mod deadlines;
mod encode;
mod error;
mod forwarded;
mod guard;
mod history;
mod hosts;
mod jobs;
mod maker;
mod meters;
mod options;
/// The program.
pub mod program;
mod records;
mod serve;
mod shared;
mod state;

pub use error::Error;
pub use forwarded::TrustedProxy;
pub use options::{
    AccessArgs, AccessOptions, BadTarget, DEFAULT_DIFFUSION, DEFAULT_ENCODER, EncoderTarget,
    GatewayOptions, History, JobArgs, JobLimits, KeepArgs, KeepOptions, ModelAlias, OpenAiArgs,
    QueueArgs, QueueOptions, QueueRole,
};
pub use serve::{Gateway, Storage, routes, run};
