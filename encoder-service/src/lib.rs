//! The encoder service: prompts in, the text encoder's hidden states out, over gRPC. The model runs
//! here, or on a machine with heylookitsanllm.

mod backend;
mod grpc;
mod handle;
/// The program.
#[cfg(feature = "model")]
pub mod program;
mod request;

pub use grpc::run;
pub use handle::{Embedding, Embeddings, EncoderHandle};
/// What the service asks of its model.
pub use llm_dit_engine::text as engine;
pub use request::{EncodeRequest, EncoderLimits};
