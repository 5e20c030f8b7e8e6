//! The program `gateway`, which the command `llm-dit` also is under that name.

use std::process::ExitCode;

#[tokio::main]
async fn main() -> ExitCode {
    gateway::program::main().await
}
