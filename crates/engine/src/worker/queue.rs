//! The bounded queue in front of a model.
//!
//! It is a lock and a deque instead of a channel, so that entries whose callers left free their
//! places as soon as they are needed, and the position in the queue is exact.

use std::{
    collections::VecDeque,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use metrics::Counter;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::Span;

use super::{batch::Batch, meter::WorkerMeter, reply::Reply};

/// Does a job and returns what delivers the result.
pub(super) type Single<M> = Box<dyn FnOnce(&mut M) -> Box<dyn FnOnce()> + Send>;

/// One job in the line.
pub(super) struct Entry<M, K: Batch<M>> {
    pub cancel: CancellationToken,
    pub span: Span,
    pub wait: Wait,
    /// Number of jobs ahead of this one, for the waiting caller.
    pub place: watch::Sender<usize>,
    pub work: Work<M, K>,
}

/// The time until a job's turn, as a span and in numbers.
pub(super) struct Wait {
    span: Span,
    since: Instant,
}

/// What there is to do.
pub(super) enum Work<M, K: Batch<M>> {
    /// By itself. Nothing from behind goes before it either.
    Single(Single<M>),
    /// Perhaps with others.
    Piece(K, Reply<K::Output>),
}

/// The next work of the model.
pub(super) enum Turn<M, K: Batch<M>> {
    Single(Span, Single<M>),
    /// At least one.
    Batch(Vec<(Span, K, Reply<K::Output>)>),
}

/// Why an entry was refused.
#[derive(Debug)]
pub(super) struct Full {
    pub waiting: usize,
    /// About when a place will be free.
    pub retry_after: Duration,
}

/// A queue of whatever.
pub(super) trait Line: std::fmt::Debug + Send + Sync {
    /// Lets those behind callers that left move up.
    fn drop_cancelled(&self);

    /// Gives back a place that no job took.
    fn release_place(&self);
}

/// A place in a worker's queue for a job that is still on its way. Free again when it is dropped.
#[derive(Debug)]
#[must_use = "the place is free again when this is dropped"]
pub struct Place {
    line: Option<Arc<dyn Line>>,
}

impl Place {
    /// A job takes the place.
    fn take(mut self) {
        self.line = None;
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(line) = self.line.take() {
            line.release_place();
        }
    }
}

pub(super) struct Queue<M, K: Batch<M>> {
    capacity: usize,
    state: Mutex<State<M, K>>,
    changed: Condvar,
}

struct State<M, K: Batch<M>> {
    meter: WorkerMeter,
    waiting: VecDeque<Entry<M, K>>,
    /// Places of jobs that are still on their way.
    reserved: usize,
    /// Jobs that are being done and not answered yet.
    running: usize,
    closed: bool,
    /// Moving average of how long a turn takes.
    typical: Duration,
}

impl Wait {
    /// Opens the span and starts the clock of a job's time in the queue.
    pub fn begin(worker: &str) -> Self {
        Self { span: tracing::info_span!("queue", worker), since: Instant::now() }
    }

    fn end(self, meter: &WorkerMeter) {
        meter.waited(self.since.elapsed());
        // The last handle closes the span.
        drop(self.span);
    }
}

impl<M, K: Batch<M>> Queue<M, K> {
    /// `name` is what it is called in metrics.
    pub fn new(name: &str, capacity: usize) -> Self {
        let state = State {
            meter: WorkerMeter::new(name),
            waiting: VecDeque::new(),
            reserved: 0,
            running: 0,
            closed: false,
            typical: Duration::ZERO,
        };
        Self { capacity, state: Mutex::new(state), changed: Condvar::new() }
    }

    /// Adds an entry, whose place then says how many are ahead of it.
    ///
    /// # Errors
    ///
    /// [`Full`] if `capacity` jobs wait already.
    pub fn push(&self, entry: Entry<M, K>) -> Result<(), Full> {
        let mut state = self.lock();
        state.check_room(self.capacity)?;
        self.add(&mut state, entry);
        Ok(())
    }

    /// Takes a place for an entry to come.
    ///
    /// # Errors
    ///
    /// As [`Queue::push`].
    pub fn reserve(self: &Arc<Self>) -> Result<Place, Full>
    where
        Self: Line + 'static,
    {
        let mut state = self.lock();
        state.check_room(self.capacity)?;
        state.reserved += 1;
        Ok(Place { line: Some(Arc::clone(self) as Arc<dyn Line>) })
    }

    /// Adds an entry at its reserved place.
    pub fn push_reserved(&self, entry: Entry<M, K>, place: Place) {
        let mut state = self.lock();
        state.reserved -= 1;
        place.take();
        self.add(&mut state, entry);
    }

    /// Adds an entry whatever the capacity.
    pub fn push_anyway(&self, entry: Entry<M, K>) {
        self.add(&mut self.lock(), entry);
    }

    /// Waits for an entry whose caller is still there, and takes those along that fit; `None` once
    /// closed and empty.
    pub fn next(&self) -> Option<Turn<M, K>> {
        let mut state = self.lock();
        loop {
            state.drop_cancelled();
            match state.waiting.pop_front() {
                // Those behind are as far from their turn as before: one runs now.
                Some(Entry { span, wait, work: Work::Single(work), .. }) => {
                    wait.end(&state.meter);
                    state.running = 1;
                    return Some(Turn::Single(span, work));
                }
                Some(Entry { span, wait, work: Work::Piece(piece, reply), .. }) => {
                    wait.end(&state.meter);
                    let mut together = vec![(span, piece, reply)];
                    state.fill_batch(&mut together);
                    state.running = together.len();
                    state.tell_places();
                    return Some(Turn::Batch(together));
                }
                None if state.closed => return None,
                None => {
                    state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
                }
            }
        }
    }

    /// Notes that one of those that were taken has its result.
    pub fn answered(&self) {
        let mut state = self.lock();
        state.running = state.running.saturating_sub(1);
        state.drop_cancelled();
        state.tell_places();
    }

    /// Notes that the turn taken last, of so many jobs, took this long.
    pub fn done(&self, jobs: usize, took: Duration) {
        let mut state = self.lock();
        state.meter.turn(jobs, took);
        state.running = 0;
        state.typical = if state.typical.is_zero() { took } else { (state.typical * 3 + took) / 4 };
        state.drop_cancelled();
        state.tell_places();
    }

    /// Sets the gauges to the queue's state.
    pub fn observe(&self) {
        let state = self.lock();
        state.meter.state(self.capacity, state.waiting.len(), state.running);
    }

    /// Counts jobs that panicked.
    pub fn panics(&self) -> Counter {
        self.lock().meter.panics()
    }

    /// Lets `next` end when the line is empty.
    pub fn close(&self) {
        self.lock().closed = true;
        self.changed.notify_all();
    }

    /// Closes the queue after its worker has ended, and answers the jobs that wait.
    pub fn abandon(&self) {
        let left = {
            let mut state = self.lock();
            state.closed = true;
            std::mem::take(&mut state.waiting)
        };
        drop(left);
    }

    fn add(&self, state: &mut State<M, K>, entry: Entry<M, K>) {
        entry.place.send_replace(state.ahead());
        state.waiting.push_back(entry);
        self.changed.notify_one();
    }

    /// Nothing that runs under the lock panics halfway through a change.
    fn lock(&self) -> MutexGuard<'_, State<M, K>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<M, K: Batch<M>> Line for Queue<M, K> {
    fn drop_cancelled(&self) {
        self.lock().drop_cancelled();
    }

    fn release_place(&self) {
        self.lock().reserved -= 1;
    }
}

impl<M, K: Batch<M>> std::fmt::Debug for Queue<M, K> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Queue").field("capacity", &self.capacity).finish_non_exhaustive()
    }
}

impl<M, K: Batch<M>> State<M, K> {
    /// Reserved places count as the jobs that will take them. An idle worker's next job passes
    /// through `waiting` too; it takes the place of the running one, not one of the waiting.
    fn check_room(&mut self, capacity: usize) -> Result<(), Full> {
        self.drop_cancelled();
        if self.ahead() + self.reserved <= capacity {
            return Ok(());
        }
        self.meter.rejected();
        Err(Full {
            waiting: self.waiting.len() + self.reserved,
            retry_after: self.typical.max(Duration::from_secs(1)),
        })
    }

    fn ahead(&self) -> usize {
        self.waiting.len() + self.in_front()
    }

    /// What is being done counts once, however many are done together, so that a place never
    /// grows when others are taken along past it.
    fn in_front(&self) -> usize {
        usize::from(self.running > 0)
    }

    /// Moves compatible queued jobs into the batch. A job is overtaken by at most one batch: the
    /// oldest that is left begins the next. A job of another kind changes the model, so the jobs
    /// behind it stay where they are.
    fn fill_batch(&mut self, together: &mut Vec<(Span, K, Reply<K::Output>)>) {
        let mut at = 0;
        while let Some(Entry { work: Work::Piece(piece, _), .. }) = self.waiting.get(at) {
            let those: Vec<&K> = together.iter().map(|(_, piece, _)| piece).collect();
            if !piece.compatible(&those) {
                at += 1;
            } else if let Some(Entry { span, wait, work: Work::Piece(piece, reply), .. }) =
                self.waiting.remove(at)
            {
                wait.end(&self.meter);
                together.push((span, piece, reply));
            }
        }
    }

    /// Drops entries whose callers left.
    fn drop_cancelled(&mut self) {
        let before = self.waiting.len();
        self.waiting.retain(|entry| {
            let left = entry.cancel.is_cancelled();
            if left {
                entry.span.in_scope(|| tracing::debug!("skipped a cancelled job"));
            }
            !left
        });
        if self.waiting.len() < before {
            self.meter.left(before - self.waiting.len());
            self.tell_places();
        }
    }

    fn tell_places(&self) {
        for (i, entry) in self.waiting.iter().enumerate() {
            let ahead = i + self.in_front();
            entry.place.send_if_modified(|place| std::mem::replace(place, ahead) != ahead);
        }
    }
}
