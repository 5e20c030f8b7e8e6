//! What tests of several crates share: engines that do as they are told, services on port 0, programs
//! that can be killed, damaged inputs, and the client's side of the wire. It links no tensor library.

pub mod attack;
pub mod certificates;
pub mod damage;
pub mod fakes;
pub mod faults;
pub mod load;
pub mod nats;
pub mod process;
pub mod program;
pub mod servers;
pub mod wire;

use std::path::PathBuf;

use llm_dit_serving::{client, security::ClientTls};

/// A client of plain HTTP, which needs no system's authorities.
pub fn http() -> reqwest::Client {
    let client = client::http("http://127.0.0.1", &ClientTls::default()).expect("nothing to read");
    client.build().expect("HTTP")
}

/// A path in the repository.
pub fn repository(path: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../..").join(path)
}
