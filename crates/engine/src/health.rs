//! Health of an engine, judged by its last jobs and by its progress.
//!
//! One failed job says little: it may have been too large, or invalid in an unforeseen way. Several
//! in a row mean that the device is lost. Health then turns to NOT_SERVING, so that callers use
//! another service. Since no job arrives any more, the engine is probed at intervals with a little
//! work of its own.
//!
//! A job whose own numbers made its result useless is no failure. It puts the engine in doubt, which
//! the probe settles at once.
//!
//! An engine that makes no progress in a job for very long has stalled, though its port answers.
//!
//! An engine on another machine is asked at intervals, since it can go away while nobody uses it.

use std::{sync::Arc, time::Duration};

use parking_lot::Mutex;
use tokio::{
    sync::watch,
    time::{self, Instant},
};

/// Failures in a row after which an engine is taken for unhealthy.
const TOO_MANY: u32 = 3;
/// Between two trials of an engine that is unhealthy.
const INTERVAL: Duration = Duration::from_secs(2);
/// Between two questions to an engine on another machine.
const FOLLOW: Duration = Duration::from_secs(5);
/// Between two looks at its progress.
const LOOK: Duration = Duration::from_secs(1);

/// How long an engine may take for one step, or for loading its weights, before it has
/// stalled. A step of Z-Image at 2048x2048 takes half an hour on two CPU cores, and 12 GB of weights
/// take minutes from a slow disk.
pub fn stall_limit(on_cpu: bool) -> Duration {
    const MINUTE: Duration = Duration::from_secs(60);
    if on_cpu { 120 * MINUTE } else { 10 * MINUTE }
}

/// Health of one engine. All clones share it.
#[derive(Clone, Debug, Default)]
pub struct EngineHealth(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    condition: watch::Sender<Condition>,
    /// When the job that runs made progress last; `None` while no job runs.
    progress: Mutex<Option<Instant>>,
}

/// What an engine's health is computed from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Condition {
    /// In a row.
    failures: u32,
    /// A job came to nothing that may have been its own fault.
    in_doubt: bool,
    /// No progress for too long.
    stalled: bool,
    /// Its thread has ended.
    gone: bool,
}

/// What came of a trial.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Trial {
    Works,
    Fails,
    /// There was no place for it.
    NotRun,
}

impl Condition {
    /// Whether the engine's thread runs, makes progress and has not failed too often in a row.
    pub fn is_healthy(self) -> bool {
        !self.gone && !self.stalled && self.failures < TOO_MANY
    }

    pub(crate) fn is_stalled(self) -> bool {
        self.stalled
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

    /// A job came to nothing, perhaps by its own numbers: a probe without them decides.
    pub fn doubt(&self) {
        self.change(|condition| condition.in_doubt = true);
    }

    /// The job that runs has begun, or has done a step.
    pub fn progressed(&self) {
        *self.0.progress.lock() = Some(Instant::now());
        self.change(|condition| condition.stalled = false);
    }

    /// No job runs.
    pub(crate) fn idle(&self) {
        *self.0.progress.lock() = None;
        self.change(|condition| condition.stalled = false);
    }

    /// Nothing is done any more.
    pub(crate) fn gone(&self) {
        self.change(|condition| condition.gone = true);
    }

    pub(crate) fn is_gone(&self) -> bool {
        self.0.condition.borrow().gone
    }

    /// Whether the engine is healthy now; see [`Condition::is_healthy`].
    pub fn is_healthy(&self) -> bool {
        self.0.condition.borrow().is_healthy()
    }

    /// A receiver that is notified of every change of the condition.
    pub fn watch(&self) -> watch::Receiver<Condition> {
        self.0.condition.subscribe()
    }

    /// Takes the engine for unhealthy while a job makes no progress for `limit`. Must be called inside a
    /// tokio runtime.
    pub fn watch_progress(&self, limit: Duration) {
        self.watch_progress_every(LOOK.min(limit), limit);
    }

    fn watch_progress_every(&self, pause: Duration, limit: Duration) {
        // A weak reference: the watch ends when the last other handle is dropped.
        let health = Arc::downgrade(&self.0);
        tokio::spawn(async move {
            loop {
                time::sleep(pause).await;
                let Some(health) = health.upgrade().map(Self) else { return };
                let stalled = health.0.progress.lock().is_some_and(|at| at.elapsed() >= limit);
                if stalled && !health.0.condition.borrow().stalled {
                    let seconds = limit.as_secs();
                    tracing::error!(
                        seconds,
                        "the engine has made no progress; restart the program"
                    );
                    health.change(|condition| condition.stalled = true);
                }
            }
        });
    }

    /// Tries an engine that is unhealthy until it works again, for as long as it is there, and one
    /// that is in doubt once. After a trial that succeeds the next failure counts as much as all those
    /// before. Must be called inside a tokio runtime.
    pub(crate) fn probe_while_unhealthy<F>(&self, trial: impl FnMut() -> F + Send + 'static)
    where
        F: Future<Output = Trial> + Send,
    {
        self.probe_every(INTERVAL, trial);
    }

    fn probe_every<F>(&self, pause: Duration, mut trial: impl FnMut() -> F + Send + 'static)
    where
        F: Future<Output = Trial> + Send,
    {
        let mut conditions = self.watch();
        let health = Arc::downgrade(&self.0);
        tokio::spawn(async move {
            loop {
                let needed = |c: &Condition| c.gone || c.in_doubt || c.failures >= TOO_MANY;
                let Ok(now) = conditions.wait_for(needed).await.map(|condition| *condition) else {
                    return;
                };
                if now.gone {
                    return;
                }
                if now.is_healthy() {
                    // Further doubts while it is tried are settled by another trial.
                    let Some(health) = health.upgrade() else { return };
                    Self(health).change(|c| c.in_doubt = false);
                } else {
                    time::sleep(pause).await;
                }
                let result = trial().await;
                let Some(health) = health.upgrade().map(Self) else { return };
                match result {
                    Trial::Works => health.change(|c| c.failures = c.failures.min(TOO_MANY - 1)),
                    Trial::Fails => health.change(|c| c.failures = c.failures.max(TOO_MANY)),
                    Trial::NotRun => {
                        time::sleep(pause).await;
                        health.change(|c| c.in_doubt |= now.in_doubt);
                    }
                }
            }
        });
    }

    /// Tries an engine on another machine at intervals. Until it has worked once it is unhealthy with
    /// the first failure, afterwards with several in a row. Must be called inside a tokio runtime.
    pub(crate) fn follow<F>(&self, trial: impl FnMut() -> F + Send + 'static)
    where
        F: Future<Output = Trial> + Send,
    {
        self.follow_every(FOLLOW, trial);
    }

    fn follow_every<F>(&self, pause: Duration, mut trial: impl FnMut() -> F + Send + 'static)
    where
        F: Future<Output = Trial> + Send,
    {
        // A weak reference, as above.
        let health = Arc::downgrade(&self.0);
        tokio::spawn(async move {
            let mut has_worked = false;
            loop {
                let result = trial().await;
                has_worked |= result == Trial::Works;
                let Some(health) = health.upgrade().map(Self) else { return };
                match result {
                    Trial::Works => health.worked(),
                    Trial::Fails if has_worked => health.failed(),
                    Trial::Fails => health.change(|c| c.failures = c.failures.max(TOO_MANY)),
                    Trial::NotRun => {}
                }
                drop(health);
                time::sleep(pause).await;
            }
        });
    }

    fn change(&self, change: impl FnOnce(&mut Condition)) {
        self.0.condition.send_if_modified(|condition| {
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
            async move { if trials == 3 { Trial::Works } else { Trial::Fails } }
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

    #[tokio::test]
    async fn a_doubt_is_settled_by_a_trial_and_is_no_failure() {
        for (result, healthy) in [(Trial::Works, true), (Trial::Fails, false)] {
            let health = EngineHealth::default();
            let (tried, mut trials) = tokio::sync::mpsc::unbounded_channel();
            let mut conditions = health.watch();
            health.probe_every(Duration::from_millis(1), move || {
                let _ = tried.send(());
                async move { result }
            });
            // However many there are.
            (0..TOO_MANY * 2).for_each(|_| health.doubt());
            assert!(health.is_healthy(), "a doubt alone changes nothing");
            trials.recv().await.expect("tried");
            conditions
                .wait_for(|c| !c.in_doubt && c.is_healthy() == healthy)
                .await
                .expect("settled");
        }
    }

    #[tokio::test]
    async fn a_trial_that_had_no_place_is_made_later() {
        let health = EngineHealth::default();
        let mut trials = 0;
        let (tried, mut all) = tokio::sync::mpsc::unbounded_channel();
        health.probe_every(Duration::from_millis(1), move || {
            trials += 1;
            let _ = tried.send(trials);
            async move { if trials < 3 { Trial::NotRun } else { Trial::Works } }
        });
        health.doubt();
        for trial in 1..=3 {
            assert_eq!(all.recv().await, Some(trial));
        }
        assert!(health.is_healthy());
    }

    #[tokio::test]
    async fn an_engine_elsewhere_is_asked_again_and_again() {
        let health = EngineHealth::default();
        let (answer, answers) = tokio::sync::mpsc::unbounded_channel();
        let answers = Arc::new(tokio::sync::Mutex::new(answers));
        let (asked, mut questions) = tokio::sync::mpsc::unbounded_channel();
        health.follow_every(Duration::from_millis(1), move || {
            let (answers, asked) = (Arc::clone(&answers), asked.clone());
            async move {
                let _ = asked.send(());
                answers.lock().await.recv().await.unwrap_or(Trial::NotRun)
            }
        });
        questions.recv().await.expect("asked");
        for (result, healthy) in [
            (Trial::Fails, false),
            (Trial::Works, true),
            (Trial::Fails, true),
            (Trial::Fails, true),
            (Trial::Works, true),
            (Trial::Fails, true),
            (Trial::Fails, true),
            (Trial::NotRun, true),
            (Trial::Fails, false),
            (Trial::Works, true),
        ] {
            answer.send(result).expect("awaited");
            // The next question comes when this answer has been counted.
            questions.recv().await.expect("asked");
            assert_eq!(health.is_healthy(), healthy);
        }
    }

    #[tokio::test]
    async fn an_engine_without_progress_has_stalled_until_it_goes_on() {
        let health = EngineHealth::default();
        let mut conditions = health.watch();
        health.watch_progress_every(Duration::from_millis(1), Duration::from_millis(5));
        health.progressed();
        conditions.wait_for(|condition| condition.stalled).await.expect("noticed");
        assert!(!health.is_healthy());
        health.progressed();
        assert!(health.is_healthy());
        conditions.wait_for(|condition| condition.stalled).await.expect("noticed again");
        health.idle();
        assert!(health.is_healthy(), "nothing runs");
    }
}
