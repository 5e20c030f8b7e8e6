//! Engines that do what the test says, an encoder service that misbehaves on the wire, a
//! heylookitsanllm that was recorded, a hub of models, and a collector of traces.

mod collector;
mod diffusion;
mod encoder;
mod generator;
pub mod heylook;
mod http;
pub mod hub;
mod script;

pub use collector::{Collector, Span};
pub use diffusion::FastDiffusion;
pub use encoder::FakeEncoder;
pub use generator::{
    Control, FAILING_SEED, FakeGenerator, LARGE_SEED, LASTING_SEED, MISFIT, OVERFLOWING_SEED,
    PANICKING_SEED, Seen,
};
pub use heylook::FakeHeylook;
pub use hub::FakeHub;
pub use script::ScriptedEncoder;
