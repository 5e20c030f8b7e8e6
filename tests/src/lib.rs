//! What the tests share: goldens of the oracle, the demo model, engines that do as they are told,
//! services on port 0, and the client's side of the wire.

pub mod demo;
pub mod fakes;
pub mod forms;
pub mod goldens;
pub mod servers;
pub mod wire;

use std::path::PathBuf;

/// A path in the repository.
pub fn repository(path: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..").join(path)
}
