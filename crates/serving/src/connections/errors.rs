//! A listener that cannot accept.

use std::{
    io,
    time::{Duration, Instant},
};

/// Between attempts when a connection cannot be accepted, as when all files of the process are
/// open. The connection stays in the system's queue, so an attempt at once would fail again.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const MAX_PAUSE: Duration = Duration::from_secs(1);
/// Between lines in the log.
const LOG_INTERVAL: Duration = Duration::from_secs(10);

/// Errors of a listener's `accept`, in a row.
#[derive(Debug, Default)]
pub struct AcceptErrors {
    pause: Option<Duration>,
    logged: Option<Instant>,
}

impl AcceptErrors {
    /// A connection was accepted.
    pub fn end(&mut self) {
        self.pause = None;
    }

    /// Logs an error, unless one was logged just now, and says how long to wait.
    pub fn add(&mut self, error: &io::Error) -> Duration {
        if self.logged.is_none_or(|at| at.elapsed() >= LOG_INTERVAL) {
            self.logged = Some(Instant::now());
            tracing::warn!(
                %error,
                "failed to accept a connection; if too many files are open, raise `ulimit -n` or lower --max-connections"
            );
        }
        let pause = self.pause.map_or(FIRST_PAUSE, |pause| (pause * 2).min(MAX_PAUSE));
        self.pause = Some(pause);
        pause
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_until_a_connection_is_accepted() {
        let mut errors = AcceptErrors::default();
        let full = io::Error::other("too many open files");
        let pauses = [0; 6].map(|_| errors.add(&full).as_millis());
        assert_eq!(pauses, [100, 200, 400, 800, 1000, 1000]);
        errors.end();
        assert_eq!(errors.add(&full), FIRST_PAUSE);
    }
}
