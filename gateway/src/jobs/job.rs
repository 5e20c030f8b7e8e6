//! One job: what is stored of it, and the log of what happens.

use bytes::Bytes;
use llm_dit_fault::Fault;
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::{
    generation::{About, Event, Progress, Stage},
    records::{
        job::{Key, Record, State},
        problem::Problem,
    },
};

#[derive(Debug)]
pub(crate) struct Job {
    pub id: Uuid,
    pub number: u64,
    log: Mutex<Log>,
    /// Counts what was logged.
    changed: watch::Sender<u64>,
    pub(super) cancel: CancellationToken,
    /// Fires when the next in the line may begin: this one has its place at a service, or is over, or
    /// has to wait for services that are away.
    pub(super) passed: CancellationToken,
}

#[derive(Debug)]
struct Log {
    record: Record,
    /// What happened, by number. Of the previews only the last is left.
    events: Vec<(u64, Event)>,
    next: u64,
    /// The picture, where the history has it not.
    file: Option<Bytes>,
    /// Why the end is not stored.
    unstored: Option<Fault>,
}

/// How a job ended.
#[derive(Clone, Debug)]
pub(crate) enum Outcome {
    Done(Box<About>),
    Failed(Problem),
    Cancelled,
}

/// What a reader has not seen yet.
#[derive(Debug)]
pub(crate) struct News {
    pub events: Vec<(u64, Event)>,
    /// With the number that its event gets.
    pub outcome: Option<(u64, Outcome)>,
}

impl Job {
    /// A job that was accepted now.
    pub fn new(record: Record) -> Self {
        Self::with(record, 0)
    }

    /// A job of an earlier gateway. Its events have numbers above all that were told before.
    pub fn restored(mut record: Record) -> Self {
        let first = (u64::from(record.attempts) + 1) << 32;
        if !record.is_over() {
            record.state = State::Queued;
        }
        Self::with(record, first)
    }

    fn with(record: Record, first: u64) -> Self {
        let begins = Event::Progress(Progress::new(Stage::Encoding));
        let events = if record.is_over() { Vec::new() } else { vec![(first, begins)] };
        let next = first + events.len() as u64;
        let (id, number) = (record.id, record.number);
        Self {
            id,
            number,
            log: Mutex::new(Log { record, events, next, file: None, unstored: None }),
            changed: watch::channel(0).0,
            cancel: CancellationToken::new(),
            passed: CancellationToken::new(),
        }
    }

    /// Stops the work before its next step, if it is not over.
    pub fn cancel(&self) {
        self.cancel.cancel();
    }

    pub fn record(&self) -> Record {
        self.log.lock().record.clone()
    }

    pub fn is_over(&self) -> bool {
        self.log.lock().record.is_over()
    }

    pub fn has_key(&self, text: &str) -> Option<Key> {
        self.log.lock().record.key.clone().filter(|key| key.text == text)
    }

    pub fn outcome(&self) -> Option<Outcome> {
        self.log.lock().outcome()
    }

    /// The picture, where the history has it not.
    pub fn file(&self) -> Option<Bytes> {
        self.log.lock().file.clone()
    }

    /// Why a restart would run it again, although it is over.
    pub fn unstored(&self) -> Option<Fault> {
        self.log.lock().unstored.clone()
    }

    /// How far it is.
    pub fn progress(&self) -> Progress {
        let log = self.log.lock();
        let last = log.events.iter().rev().find_map(|(_, event)| match event {
            Event::Progress(progress) => Some(progress.clone()),
            Event::Preview(_) => None,
        });
        last.unwrap_or_else(|| Progress::new(Stage::Encoding))
    }

    /// What happened from event number `from` on.
    pub fn news(&self, from: u64) -> News {
        let log = self.log.lock();
        let new = log.events.iter().filter(|(number, _)| *number >= from);
        let outcome = log.outcome().map(|outcome| (log.next, outcome));
        News { events: new.cloned().collect(), outcome }
    }

    /// To be had before [`Job::news`], so that nothing slips in between.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// Changes what is to be stored, and returns it.
    pub(super) fn change(&self, change: impl FnOnce(&mut Record)) -> Record {
        let record = {
            let mut log = self.log.lock();
            change(&mut log.record);
            log.record.clone()
        };
        self.tell_all();
        record
    }

    pub(super) fn tell(&self, event: Event) {
        if let Event::Progress(Progress { stage, queue_position, .. }) = &event
            && (queue_position.is_some() || matches!(stage, Stage::Denoising | Stage::Decoding))
        {
            self.passed.cancel();
        }
        let mut log = self.log.lock();
        if matches!(event, Event::Preview(_)) {
            log.events.retain(|(_, event)| !matches!(event, Event::Preview(_)));
        }
        if log.events.last().is_some_and(|(_, last)| *last == event) {
            return;
        }
        let number = log.next;
        log.next += 1;
        log.events.push((number, event));
        drop(log);
        self.tell_all();
    }

    /// It is over. `file` is what the history has not.
    pub(super) fn end(&self, record: Record, file: Option<Bytes>, unstored: Option<Fault>) {
        {
            let mut log = self.log.lock();
            log.record = record;
            log.file = file;
            log.unstored = unstored;
        }
        self.tell_all();
    }

    fn tell_all(&self) {
        self.changed.send_modify(|changes| *changes += 1);
    }
}

impl Log {
    fn outcome(&self) -> Option<Outcome> {
        match &self.record.state {
            State::Queued | State::Running => None,
            State::Done(about) => Some(Outcome::Done(about.clone())),
            State::Failed(problem) => Some(Outcome::Failed(problem.clone())),
            State::Cancelled => Some(Outcome::Cancelled),
        }
    }
}
