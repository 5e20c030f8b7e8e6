//! Logs: for people by default, JSON for collectors; always to stderr, so that stdout stays the
//! program's own.

use std::io::{self, IsTerminal as _};

use tracing_subscriber::EnvFilter;

/// Environment variable that sets `--log-filter`.
pub const LOG_ENV: &str = "LLM_DIT_LOG";

/// How and how much to log.
#[derive(Clone, Debug, clap::Args)]
pub struct LogArgs {
    /// How log lines look: for people, or one JSON object a line
    #[arg(long, value_enum, default_value_t = LogFormat::Human, value_name = "FORMAT")]
    pub log_format: LogFormat,
    /// What to log: a level (error, warn, info, debug, trace), or levels by module as in
    /// RUST_LOG, such as `info,diffusion_service=debug`
    #[arg(long, env = LOG_ENV, default_value = "info", value_name = "FILTER", value_parser = filter)]
    pub log_filter: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    Human,
    Json,
}

/// Begins to log. The first call in a process counts.
pub fn init(args: &LogArgs) {
    let filter = EnvFilter::new(&args.log_filter);
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr);
    // An error means that a logger is there already, as in a test binary; it serves as well.
    let _ = match args.log_format {
        LogFormat::Human => {
            builder.with_ansi(io::stderr().is_terminal()).with_target(false).try_init()
        }
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
    };
}

/// Refuses a filter that would silently log nothing.
fn filter(text: &str) -> Result<String, String> {
    match EnvFilter::try_new(text) {
        Ok(_) => Ok(text.to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_are_checked() {
        assert!(filter("info,diffusion_service=debug").is_ok());
        assert!(filter("info,diffusion_service=loud").is_err());
    }
}
