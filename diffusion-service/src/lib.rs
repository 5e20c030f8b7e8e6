//! The diffusion service: embeddings in, pictures out, over gRPC. The model is another crate's, behind
//! [`engine`]; with the feature `model` off, this crate holds no tensor library.

mod args;
mod grpc;
mod handle;
mod loras;
pub mod picture;
pub mod preview;
/// The program.
#[cfg(feature = "model")]
pub mod program;
pub mod source;

pub use args::{BatchArgs, ModelsArgs, ModelsArgsError, NamedModel};
pub use grpc::run;
pub use handle::{Admission, DiffusionHandle, Event, Events, Image, ServiceLimits, Timings};
/// What the service asks of its model.
pub use llm_dit_engine::image as engine;
pub use loras::{LoraArg, LoraArgs, LoraArgsError, LorasFolder, LorasFolderError};
