//! Health of an engine, judged by its last jobs.
//!
//! One failed job says little: it may have been too large, or invalid in an unforeseen way. Several
//! in a row mean that the device is lost. Health then turns to NOT_SERVING, so that callers use
//! another service. Since no job arrives any more, the engine is probed at intervals with a little
//! work of its own.

use std::{sync::Arc, time::Duration};

use tokio::{sync::watch, time};

/// Failures in a row after which an engine is taken for unhealthy.
const TOO_MANY: u32 = 3;
/// Between two trials of an engine that is unhealthy.
const INTERVAL: Duration = Duration::from_secs(2);

/// Health of one engine. All clones share it.
#[derive(Clone, Debug)]
pub struct EngineHealth(Arc<watch::Sender<Condition>>);

/// What an engine's health is computed from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Condition {
    /// In a row.
    failures: u32,
    /// Its thread has ended.
    gone: bool,
}

impl Condition {
    /// Whether the engine's thread runs and has not failed too often in a row.
    pub fn is_healthy(self) -> bool {
        !self.gone && self.failures < TOO_MANY
    }
}

impl Default for EngineHealth {
    fn default() -> Self {
        Self(Arc::new(watch::channel(Condition::default()).0))
    }
}

impl EngineHealth {
    /// A job came to its end.
    pub fn worked(&self) {
        self.change(|condition| condition.failures = 0);
    }

    /// The engine failed a job that it should have done.
    pub fn failed(&self) {
        self.change(|condition| condition.failures = condition.failures.saturating_add(1));
    }

    /// Nothing is done any more.
    pub(crate) fn gone(&self) {
        self.change(|condition| condition.gone = true);
    }

    pub(crate) fn is_gone(&self) -> bool {
        self.0.borrow().gone
    }

    /// Whether the engine is healthy now; see [`Condition::is_healthy`].
    pub fn is_healthy(&self) -> bool {
        self.0.borrow().is_healthy()
    }

    /// A receiver that is notified of every change of the condition.
    pub fn watch(&self) -> watch::Receiver<Condition> {
        self.0.subscribe()
    }

    /// Tries an engine that is unhealthy until it is well again, for as long as it is there. After a trial
    /// that succeeds the next failure counts as much as all those before. Must be called inside a
    /// tokio runtime.
    pub(crate) fn probe_while_unhealthy<F>(&self, trial: impl FnMut() -> F + Send + 'static)
    where
        F: Future<Output = bool> + Send,
    {
        self.probe_every(INTERVAL, trial);
    }

    fn probe_every<F>(&self, pause: Duration, mut trial: impl FnMut() -> F + Send + 'static)
    where
        F: Future<Output = bool> + Send,
    {
        let mut conditions = self.watch();
        // A weak reference: the probe ends when the last other handle is dropped.
        let health = Arc::downgrade(&self.0);
        tokio::spawn(async move {
            while conditions.wait_for(|c| !c.is_healthy()).await.is_ok_and(|c| !c.gone) {
                time::sleep(pause).await;
                if !trial().await {
                    continue;
                }
                let Some(sender) = health.upgrade() else { return };
                Self(sender).change(|c| c.failures = c.failures.min(TOO_MANY - 1));
            }
        });
    }

    fn change(&self, change: impl FnOnce(&mut Condition)) {
        self.0.send_if_modified(|condition| {
            let before = *condition;
            change(condition);
            match (before.is_healthy(), condition.is_healthy()) {
                // A thread also ends when its last handle is dropped.
                (true, false) if !condition.gone => {
                    tracing::error!(failures = condition.failures, "engine marked unhealthy");
                }
                (false, true) => tracing::info!("engine is healthy again"),
                _ => {}
            }
            *condition != before
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_takes_several_failures_in_a_row() {
        let health = EngineHealth::default();
        for _ in 0..TOO_MANY - 1 {
            health.failed();
        }
        assert!(health.is_healthy());
        health.worked();
        for _ in 0..TOO_MANY {
            assert!(health.is_healthy());
            health.failed();
        }
        assert!(!health.is_healthy());
        health.worked();
        assert!(health.is_healthy());
        health.gone();
        health.worked();
        assert!(!health.is_healthy(), "an ended thread does not recover");
    }

    #[tokio::test]
    async fn an_unhealthy_engine_is_tried_until_it_works() {
        let health = EngineHealth::default();
        let mut trials = 0;
        let (tried, mut all) = tokio::sync::mpsc::unbounded_channel();
        health.probe_every(Duration::from_millis(1), move || {
            trials += 1;
            let _ = tried.send(trials);
            async move { trials == 3 }
        });
        let mut conditions = health.watch();
        (0..TOO_MANY).for_each(|_| health.failed());
        conditions.wait_for(|condition| condition.is_healthy()).await.expect("well again");
        for trial in 1..=3 {
            assert_eq!(all.recv().await, Some(trial));
        }
        health.failed();
        assert!(!health.is_healthy(), "the trial proved little");
    }
}
