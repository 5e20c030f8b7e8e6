//! The program `diffusion-service`, which the command `llm-dit` also is under that name.

use std::process::ExitCode;

#[tokio::main]
async fn main() -> ExitCode {
    diffusion_service::program::main().await
}
