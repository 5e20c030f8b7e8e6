//! The life of a service's program: command line, log, work, exit status.

use std::{error::Error, process::ExitCode};

use clap::Parser;
use llm_dit_settings::{Parsed, Program};

use crate::{
    args::report,
    telemetry::{self, LogArgs},
};

/// What a service's command line has.
pub trait ServiceArgs: Parser {
    /// Which keys of a configuration file are its own.
    const PROGRAM: Program;
    fn log(&self) -> &LogArgs;
}

/// Reads flags, environment and configuration, and serves.
pub async fn boot<T: ServiceArgs>(
    serve: impl AsyncFnOnce(T) -> Result<(), Box<dyn Error>>,
) -> ExitCode {
    let Parsed { args, .. } = match llm_dit_settings::parse::<T>(T::PROGRAM) {
        Ok(parsed) => parsed,
        Err(error) => return report(&error),
    };
    telemetry::init(args.log());
    match serve(args).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error}");
            ExitCode::FAILURE
        }
    }
}
