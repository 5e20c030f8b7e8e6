//! Engines that do what the test says, and an encoder service that misbehaves on the wire.

mod encoder;
mod generator;
mod script;

pub use encoder::FakeEncoder;
pub use generator::{Control, FAILING_SEED, FakeGenerator, LASTING_SEED, PANICKING_SEED, Seen};
pub use script::ScriptedEncoder;
