//! The program `encoder-service`, which the command `llm-dit` also is under that name.

use std::process::ExitCode;

#[tokio::main]
async fn main() -> ExitCode {
    encoder_service::program::main().await
}
