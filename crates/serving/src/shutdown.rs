//! SIGINT and SIGTERM cancel one token that all parts of a program watch.

use std::{io, process, time::Duration};

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// Time for running work to finish once the shutdown has begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::Args)]
pub struct Grace {
    /// Seconds to let running work finish after SIGINT or SIGTERM
    #[arg(long, value_name = "SECONDS", default_value_t = Grace::default().grace)]
    pub grace: u64,
}

impl Default for Grace {
    fn default() -> Self {
        Self { grace: 30 }
    }
}

impl Grace {
    /// How long running requests may take after a signal to stop.
    pub fn duration(self) -> Duration {
        Duration::from_secs(self.grace)
    }
}

/// A token that the first SIGINT or SIGTERM cancels. A second signal ends the process at once,
/// without the grace period.
///
/// # Errors
///
/// Fails if the signal handlers cannot be installed.
pub fn on_signal() -> io::Result<CancellationToken> {
    let token = CancellationToken::new();
    let (interrupt, terminate) =
        (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    tokio::spawn(watch(token.clone(), interrupt, terminate));
    Ok(token)
}

async fn watch(token: CancellationToken, mut interrupt: Signal, mut terminate: Signal) {
    let mut next = async || {
        tokio::select! {
            _ = interrupt.recv() => "SIGINT",
            _ = terminate.recv() => "SIGTERM",
        }
    };
    let signal = next().await;
    tracing::info!(signal, "shutting down; running work may finish, a second signal quits at once");
    token.cancel();
    let signal = next().await;
    tracing::warn!(signal, "quitting at once");
    process::exit(130);
}
