//! Logs and traces. Logs are human-readable by default or JSON, and always go to stderr: stdout
//! belongs to the program. Spans are exported to an OpenTelemetry collector if one is configured.

mod fields;
mod traces;

use std::io::{self, IsTerminal as _};

use tracing_subscriber::{
    EnvFilter, Layer as _, Registry, fmt, layer::SubscriberExt as _, util::SubscriberInitExt as _,
};

use self::fields::HumanFields;
pub use self::traces::{TraceArgs, Traces, TracesError};

/// Environment variable that sets `--log-filter`.
pub const LOG_ENV: &str = "LLM_DIT_LOG";

/// Log format, log filter and trace export.
#[derive(Clone, Debug, clap::Args)]
pub struct LogArgs {
    /// Log format: human-readable, or one JSON object per line
    #[arg(long, value_enum, default_value_t = LogFormat::Human, value_name = "FORMAT")]
    pub log_format: LogFormat,
    /// Log level (error, warn, info, debug, trace), or levels by module as in RUST_LOG, such as
    /// `info,diffusion_service=debug`
    #[arg(long, env = LOG_ENV, default_value = "info", value_name = "FILTER", value_parser = filter)]
    pub log_filter: String,
    #[command(flatten)]
    pub traces: TraceArgs,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    Human,
    Json,
}

/// Installs the logger, and trace export under the name `program` if it is configured. Only the
/// first call in a process has an effect. Must be called inside a tokio runtime.
///
/// # Errors
///
/// [`TracesError`] if the exporter of traces cannot be built.
pub fn init(args: &LogArgs, program: &str) -> Result<Traces, TracesError> {
    let filter = EnvFilter::new(&args.log_filter);
    let lines = fmt::layer().with_writer(io::stderr);
    let lines = match args.log_format {
        LogFormat::Human => lines
            .fmt_fields(HumanFields)
            .with_ansi(io::stderr().is_terminal())
            .with_target(false)
            .with_filter(filter)
            .boxed(),
        LogFormat::Json => lines.json().flatten_event(true).with_filter(filter).boxed(),
    };
    let (layer, traces) = args.traces.begin::<Registry>(program)?.unzip();
    let subscriber = Registry::default().with(layer).with(lines);
    // An error means that a logger is already installed, as in a test binary; that one is used.
    let _ = subscriber.try_init();
    Ok(traces.unwrap_or_default())
}

/// Rejects a filter that would silently log nothing.
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
