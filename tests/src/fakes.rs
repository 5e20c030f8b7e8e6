//! Engines that do what the test says, an encoder service that misbehaves on the wire, and a
//! heylookitsanllm that was recorded.

mod diffusion;
mod encoder;
mod generator;
pub mod heylook;
mod script;

pub use diffusion::FastDiffusion;
pub use encoder::FakeEncoder;
pub use generator::{
    Control, FAILING_SEED, FakeGenerator, LARGE_SEED, LASTING_SEED, PANICKING_SEED, Seen,
};
pub use heylook::FakeHeylook;
pub use script::ScriptedEncoder;
