//! The encoder service: prompts in, the text encoder's hidden states out, over gRPC. The model runs
//! here, or on a machine with heylookitsanllm.

mod backend;
pub mod engine;
mod grpc;
mod handle;
mod load;
pub mod qwen3;
mod request;

pub use grpc::run;
pub use handle::{Embedding, Embeddings, EncoderHandle};
pub use load::{EncoderOptions, load, load_encoder, synthetic_encoder};
pub use request::{EncodeRequest, EncoderLimits};
