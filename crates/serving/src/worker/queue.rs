//! The bounded line in front of a model.
//!
//! A lock and a deque instead of a channel, so that entries whose callers left free their places
//! as soon as somebody needs them, and the position in the line is exact.

use std::{
    collections::VecDeque,
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio_util::sync::CancellationToken;
use tracing::Span;

/// Does a job and returns what delivers the result.
pub(super) type Work<M> = Box<dyn FnOnce(&mut M) -> Box<dyn FnOnce()> + Send>;

/// One job in the line.
pub(super) struct Entry<M> {
    pub cancel: CancellationToken,
    pub span: Span,
    pub work: Work<M>,
}

/// Why an entry was refused.
#[derive(Debug)]
pub(super) struct Full {
    pub waiting: usize,
    /// About when a place will be free.
    pub retry_after: Duration,
}

pub(super) struct Queue<M> {
    capacity: usize,
    state: Mutex<State<M>>,
    changed: Condvar,
}

struct State<M> {
    waiting: VecDeque<Entry<M>>,
    running: bool,
    closed: bool,
    /// Moving average of how long jobs take.
    typical: Duration,
}

impl<M> Queue<M> {
    pub fn new(capacity: usize) -> Self {
        let state = State {
            waiting: VecDeque::new(),
            running: false,
            closed: false,
            typical: Duration::ZERO,
        };
        Self { capacity, state: Mutex::new(state), changed: Condvar::new() }
    }

    /// Adds an entry and says how many are ahead of it.
    pub fn push(&self, entry: Entry<M>) -> Result<usize, Full> {
        let mut state = self.lock();
        if state.ahead() > self.capacity {
            state.waiting.retain(|e| !e.cancel.is_cancelled());
        }
        // An idle worker's next job passes through `waiting` too; it takes the place of the
        // running one, not one of the waiting.
        if state.ahead() > self.capacity {
            return Err(Full {
                waiting: state.waiting.len(),
                retry_after: state.typical.max(Duration::from_secs(1)),
            });
        }
        Ok(self.add(&mut state, entry))
    }

    /// Adds an entry whatever the capacity.
    pub fn push_anyway(&self, entry: Entry<M>) -> usize {
        self.add(&mut self.lock(), entry)
    }

    /// Waits for an entry whose caller is still there; `None` once closed and empty.
    pub fn next(&self) -> Option<Entry<M>> {
        let mut state = self.lock();
        loop {
            match state.waiting.pop_front() {
                Some(entry) if entry.cancel.is_cancelled() => {
                    entry.span.in_scope(|| tracing::debug!("skipped: the caller left"));
                }
                Some(entry) => {
                    state.running = true;
                    return Some(entry);
                }
                None if state.closed => return None,
                None => {
                    state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
                }
            }
        }
    }

    /// Notes that the entry taken last took this long.
    pub fn done(&self, took: Duration) {
        let mut state = self.lock();
        state.running = false;
        state.typical = if state.typical.is_zero() { took } else { (state.typical * 3 + took) / 4 };
    }

    /// Lets `next` end when the line is empty.
    pub fn close(&self) {
        self.lock().closed = true;
        self.changed.notify_all();
    }

    fn add(&self, state: &mut State<M>, entry: Entry<M>) -> usize {
        let ahead = state.ahead();
        state.waiting.push_back(entry);
        self.changed.notify_one();
        ahead
    }

    /// Nothing that runs under the lock panics halfway through a change.
    fn lock(&self) -> MutexGuard<'_, State<M>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<M> State<M> {
    fn ahead(&self) -> usize {
        self.waiting.len() + usize::from(self.running)
    }
}
