//! The life of a service's program: command line, log, work, exit status.

use std::{error::Error, process::ExitCode};

use clap::Parser;
use llm_dit_settings::{Parsed, Program};

use crate::{
    args::{EXIT_USAGE, ListenError, report},
    telemetry::{self, LogArgs},
};

/// The command line of a service.
pub trait ServiceArgs: Parser {
    /// Which keys of a configuration file are its own.
    const PROGRAM: Program;
    /// The flags of logs and traces.
    fn log(&self) -> &LogArgs;
    /// What the command line asks for instead of serving.
    fn subcommand(&self) -> Option<impl Future<Output = ExitCode>>;
}

/// Reads flags, environment and configuration, and serves.
pub async fn boot<T: ServiceArgs>(
    serve: impl AsyncFnOnce(T) -> Result<(), Box<dyn Error>>,
) -> ExitCode {
    let Parsed { args, .. } = match llm_dit_settings::parse::<T>(T::PROGRAM) {
        Ok(parsed) => parsed,
        Err(error) => return report(&error),
    };
    if let Some(command) = args.subcommand() {
        return command.await;
    }
    let traces = match telemetry::init(args.log(), T::command().get_name()) {
        Ok(traces) => traces,
        Err(error) => {
            eprintln!("error: {error}");
            return ExitCode::FAILURE;
        }
    };
    let served = serve(args).await;
    if let Err(error) = &served {
        tracing::error!("{error}");
    }
    traces.end().await;
    match served {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => status(error.as_ref()),
    }
}

/// A certificate or key that the flags name is as wrong as a flag; a supervisor that starts the
/// program again would change nothing.
fn status(error: &(dyn Error + 'static)) -> ExitCode {
    match error.downcast_ref() {
        Some(ListenError::Security(_) | ListenError::Insecure { .. }) => ExitCode::from(EXIT_USAGE),
        Some(ListenError::Bind { .. }) | None => ExitCode::FAILURE,
    }
}
