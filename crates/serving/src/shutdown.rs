//! SIGINT and SIGTERM become one token that everything listens to.

use std::{io, process};

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// A token that the first SIGINT or SIGTERM fires. A second one ends the process on the spot, for
/// the person who does not want to wait for the grace period.
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
    tracing::info!(
        signal,
        "shutting down; running work is finished first, send it again to quit now"
    );
    token.cancel();
    let signal = next().await;
    tracing::warn!(signal, "quitting at once");
    process::exit(130);
}
