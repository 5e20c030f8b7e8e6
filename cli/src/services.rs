//! The services under their own names. Archives and images hold one file for all four programs: the
//! names of the services are links to `llm-dit`.

use std::{env, path::Path, process::ExitCode};

/// Runs the service by whose name this program was called, if it was.
pub async fn run_as_called() -> Option<ExitCode> {
    let called = env::args_os().next()?;
    match Path::new(&called).file_name()?.to_str()? {
        "encoder-service" => Some(encoder_service::program::main().await),
        "diffusion-service" => Some(diffusion_service::program::main().await),
        "gateway" => Some(gateway::program::main().await),
        _ => None,
    }
}
