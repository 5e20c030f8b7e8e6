//! One job: its stored record, and the log of its events.

use std::time::{Duration, Instant};

use bytes::Bytes;
use jiff::SignedDuration;
use llm_dit_fault::Fault;
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{
    origin::Origin,
    store::{Revision, StoredJob},
};
use crate::{
    admission::Admission,
    records::{
        job::{JobId, JobRecord, JobState},
        picture::About,
        problem::Problem,
        progress::{Event, Progress, Stage},
        request::Request,
    },
};

/// Clients that may follow the events of one job.
const MAX_WATCHERS: usize = 64;
const RETRY_WATCH: Duration = Duration::from_secs(5);

#[derive(Debug)]
pub(crate) struct Job {
    pub id: JobId,
    /// When it was accepted, unless an earlier process did.
    begun: Option<Instant>,
    log: Mutex<Log>,
    /// Counts what was logged.
    changed: watch::Sender<u64>,
    /// Until a worker of this process takes it.
    accepted: Mutex<Option<Accepted>>,
    pub(super) cancel: CancellationToken,
    /// Whether other processes may run it.
    shared: bool,
    /// The claim of this process, and what fires when another one has taken over or ended the job.
    held: Mutex<Option<(String, CancellationToken)>>,
    /// Fires when the next in the line may begin: this one has its place at a service, or is over, or
    /// has to wait for services that are away.
    pub(super) passed: CancellationToken,
}

/// What the process that accepted a job has beside its record.
#[derive(Debug)]
pub(super) struct Accepted {
    pub request: Request,
    pub admission: Admission,
    pub origin: Origin,
}

#[derive(Debug)]
struct Log {
    record: JobRecord,
    /// The last one of the index that is known here.
    revision: Revision,
    /// What happened in the current attempt, by number. Only the latest preview and the latest
    /// position in a queue are kept.
    events: Vec<(u64, Event)>,
    next: u64,
    /// The picture, as long as the store does not have it.
    file: Option<Bytes>,
    /// Of the picture, where it is in memory alone.
    bytes_in_memory: usize,
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
    pub fn new(record: JobRecord) -> Self {
        Self { begun: Some(Instant::now()), ..Self::with(record, Revision::NEW, 0) }
    }

    /// A job of an earlier gateway. Its events have numbers above all that were told before.
    pub fn restored(stored: StoredJob) -> Self {
        let StoredJob { mut record, revision } = stored;
        let first = first_of(record.attempts + 1);
        if !record.is_over() {
            record.state = JobState::Queued;
        }
        Self::with(record, revision, first)
    }

    /// A job that processes share. Its events have the same numbers in each of them.
    pub fn mirrored(stored: StoredJob) -> Self {
        let StoredJob { record, revision } = stored;
        let first = first_of(record.attempts + u32::from(record.is_over()));
        Self { shared: true, ..Self::with(record, revision, first) }
    }

    fn with(record: JobRecord, revision: Revision, first: u64) -> Self {
        let begins = Event::Progress(Progress::new(Stage::Encoding));
        let events = if record.is_over() { Vec::new() } else { vec![(first, begins)] };
        let next = first + events.len() as u64;
        let id = record.id;
        let (file, bytes_in_memory, unstored) = (None, 0, None);
        let log = Log { record, revision, events, next, file, bytes_in_memory, unstored };
        Self {
            id,
            begun: None,
            log: Mutex::new(log),
            changed: watch::channel(0).0,
            accepted: Mutex::default(),
            cancel: CancellationToken::new(),
            shared: false,
            held: Mutex::default(),
            passed: CancellationToken::new(),
        }
    }

    /// Stops the work before its next step, if it is not over.
    pub fn cancel(&self) {
        self.cancel.cancel();
    }

    /// A copy of the job's record.
    pub fn record(&self) -> JobRecord {
        self.log.lock().record.clone()
    }

    /// Whether it was accepted longer ago than `age`, as far as this process knows.
    pub fn is_older(&self, age: SignedDuration, at: Instant) -> bool {
        let known = self.begun.map(|begun| at.saturating_duration_since(begun));
        known.is_none_or(|known| SignedDuration::try_from(known).is_ok_and(|known| known >= age))
    }

    /// Whether the job is done, failed or cancelled.
    pub fn is_over(&self) -> bool {
        self.log.lock().record.is_over()
    }

    /// How the job ended; `None` while it is not over.
    pub fn outcome(&self) -> Option<Outcome> {
        self.log.lock().outcome()
    }

    /// The picture, as long as the store does not have it.
    pub(super) fn file(&self) -> Option<Bytes> {
        self.log.lock().file.clone()
    }

    /// Of its picture, where it is in memory alone.
    pub(super) fn bytes_in_memory(&self) -> usize {
        self.log.lock().bytes_in_memory
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

    /// As [`Job::changes`], for a client that follows the job.
    ///
    /// # Errors
    ///
    /// [`Fault::Busy`] if too many clients do.
    pub fn watch(&self) -> Result<watch::Receiver<u64>, Fault> {
        // One at a time, so that the count holds.
        let _log = self.log.lock();
        if self.changed.receiver_count() >= MAX_WATCHERS {
            let message =
                format!("{MAX_WATCHERS} clients follow the events of this job; try again later");
            return Err(Fault::Busy { message, retry_after: RETRY_WATCH });
        }
        Ok(self.changes())
    }

    /// Must be called before [`Job::news`], so that no event is missed in between.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// Hands over what the worker needs that runs it.
    pub(super) fn accept(&self, accepted: Accepted) {
        *self.accepted.lock() = Some(accepted);
    }

    pub(super) fn take_accepted(&self) -> Option<Accepted> {
        self.accepted.lock().take()
    }

    pub(super) fn revision(&self) -> Revision {
        self.log.lock().revision
    }

    /// The record is in the index, as this revision.
    pub(super) fn stored(&self, revision: Revision) {
        let mut log = self.log.lock();
        log.revision = log.revision.max(revision);
    }

    /// Takes over what the index has, if it is newer.
    pub(super) fn catch_up(&self, stored: StoredJob) {
        {
            let mut log = self.log.lock();
            if stored.revision <= log.revision {
                return;
            }
            log.record = stored.record;
            log.revision = stored.revision;
            self.follow_record(&mut log);
        }
        self.tell_all();
    }

    /// As [`Job::catch_up`], whatever is known here.
    pub(super) fn replace(&self, stored: StoredJob) {
        {
            let mut log = self.log.lock();
            log.record = stored.record;
            log.revision = log.revision.max(stored.revision);
            log.unstored = None;
            log.file = None;
            self.follow_record(&mut log);
        }
        self.tell_all();
    }

    /// What a changed record means to the events, and to work of this process.
    fn follow_record(&self, log: &mut Log) {
        if !self.shared {
            return;
        }
        let is_over = log.record.is_over();
        if is_over {
            log.next = log.next.max(first_of(log.record.attempts + 1));
        }
        let held = self.held.lock();
        if let Some((claim, lost)) = &*held
            && (is_over || log.record.owner.as_ref().is_some_and(|owner| owner != claim))
        {
            lost.cancel();
        }
    }

    /// This process works at it under a claim. The token fires when the claim is worth nothing any
    /// more.
    pub(super) fn hold(&self, claim: Option<&str>) -> CancellationToken {
        let lost = CancellationToken::new();
        let held = claim.map(|claim| (claim.to_owned(), lost.clone()));
        // This process may get a job again whose lease it has lost.
        if let Some((_, before)) = std::mem::replace(&mut *self.held.lock(), held) {
            before.cancel();
        }
        lost
    }

    /// This process does not work at it under this claim any more.
    pub(super) fn release(&self, claim: Option<&str>) {
        let mut held = self.held.lock();
        if held.as_ref().is_some_and(|(held, _)| Some(&**held) == claim) {
            *held = None;
        }
    }

    /// Begins an attempt. `None` if the job is over already.
    pub(super) fn begin(&self, claim: Option<&str>) -> Option<JobRecord> {
        let record = {
            let mut log = self.log.lock();
            if self.shared && log.record.is_over() {
                return None;
            }
            log.record.begin();
            if let Some(claim) = claim {
                log.record.owner = Some(claim.to_owned());
                log.next = log.next.max(first_of(log.record.attempts) + 1);
            }
            log.record.clone()
        };
        self.tell_all();
        Some(record)
    }

    /// Changes what is to be stored, and returns it.
    pub(super) fn change(&self, change: impl FnOnce(&mut JobRecord)) -> JobRecord {
        let record = {
            let mut log = self.log.lock();
            change(&mut log.record);
            log.record.clone()
        };
        self.tell_all();
        record
    }

    /// Logs an event of this process. Returns its number, unless it says nothing new.
    pub(super) fn tell(&self, event: Event) -> Option<u64> {
        self.log_event(None, event)
    }

    /// Logs an event that another process tells. One that came before is ignored.
    pub(super) fn heard(&self, number: u64, event: Event) {
        self.log_event(Some(number), event);
    }

    fn log_event(&self, number: Option<u64>, event: Event) -> Option<u64> {
        if let Event::Progress(Progress { stage, queue_position, .. }) = &event
            && (queue_position.is_some() || matches!(stage, Stage::Denoising | Stage::Decoding))
        {
            self.passed.cancel();
        }
        let mut log = self.log.lock();
        if number.is_some_and(|number| number < log.next || log.record.is_over()) {
            return None;
        }
        if matches!(event, Event::Preview(_)) {
            log.events.retain(|(_, event)| !matches!(event, Event::Preview(_)));
        }
        if log.events.last().is_some_and(|(_, last)| *last == event) {
            return None;
        }
        match event.stage() {
            // A new attempt: what happened in the last one no longer matters.
            Some(Stage::Encoding) => log.events.clear(),
            // Only the latest position matters.
            Some(Stage::Queued)
                if log
                    .events
                    .last()
                    .is_some_and(|(_, last)| last.stage() == Some(Stage::Queued)) =>
            {
                log.events.pop();
            }
            _ => {}
        }
        let number = number.unwrap_or(log.next);
        log.next = number + 1;
        log.events.push((number, event));
        drop(log);
        self.tell_all();
        Some(number)
    }

    /// It is over, which is stored. `bytes` is what its picture takes.
    pub(super) fn end(&self, record: JobRecord, bytes: usize) {
        {
            let mut log = self.log.lock();
            let in_history =
                matches!(&record.state, JobState::Done(about) if about.history_id.is_some());
            log.bytes_in_memory = if in_history { 0 } else { bytes };
            log.record = record;
            log.file = None;
            log.unstored = None;
            self.follow_record(&mut log);
        }
        self.tell_all();
    }

    /// It is over, which could not be stored.
    pub(super) fn end_unstored(&self, record: JobRecord, file: Option<Bytes>, fault: Fault) {
        {
            let mut log = self.log.lock();
            log.record = record;
            log.bytes_in_memory = file.as_ref().map_or(0, Bytes::len);
            log.file = file;
            log.unstored = Some(fault);
            self.follow_record(&mut log);
        }
        self.tell_all();
    }

    fn tell_all(&self) {
        self.changed.send_modify(|changes| *changes += 1);
    }
}

/// The number of the first event of an attempt: above all of the attempts before it.
fn first_of(attempt: u32) -> u64 {
    u64::from(attempt) << 32
}

impl Log {
    fn outcome(&self) -> Option<Outcome> {
        match &self.record.state {
            JobState::Queued | JobState::Running => None,
            JobState::Done(about) => Some(Outcome::Done(about.clone())),
            JobState::Failed(problem) => Some(Outcome::Failed(problem.clone())),
            JobState::Cancelled => Some(Outcome::Cancelled),
        }
    }
}
