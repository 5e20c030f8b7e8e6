//! The bounded line in front of a model.
//!
//! A lock and a deque instead of a channel, so that entries whose callers left free their places
//! as soon as somebody needs them, and the position in the line is exact.

use std::{
    collections::VecDeque,
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::Span;

/// Does a job and returns what delivers the result.
pub(super) type Work<M> = Box<dyn FnOnce(&mut M) -> Box<dyn FnOnce()> + Send>;

/// One job in the line.
pub(super) struct Entry<M> {
    pub cancel: CancellationToken,
    pub span: Span,
    /// Jobs ahead of it, for whoever waits.
    pub place: watch::Sender<usize>,
    pub work: Work<M>,
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
    fn forget_the_left(&self);
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

    /// Adds an entry, whose place then says how many are ahead of it.
    pub fn push(&self, entry: Entry<M>) -> Result<(), Full> {
        let mut state = self.lock();
        state.forget_the_left();
        // An idle worker's next job passes through `waiting` too; it takes the place of the
        // running one, not one of the waiting.
        if state.ahead() > self.capacity {
            return Err(Full {
                waiting: state.waiting.len(),
                retry_after: state.typical.max(Duration::from_secs(1)),
            });
        }
        self.add(&mut state, entry);
        Ok(())
    }

    /// Adds an entry whatever the capacity.
    pub fn push_anyway(&self, entry: Entry<M>) {
        self.add(&mut self.lock(), entry);
    }

    /// Waits for an entry whose caller is still there; `None` once closed and empty.
    pub fn next(&self) -> Option<Entry<M>> {
        let mut state = self.lock();
        loop {
            state.forget_the_left();
            match state.waiting.pop_front() {
                Some(entry) => {
                    // Those behind are as far from their turn as before: one runs now.
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
        state.forget_the_left();
        state.tell_places();
    }

    /// Lets `next` end when the line is empty.
    pub fn close(&self) {
        self.lock().closed = true;
        self.changed.notify_all();
    }

    fn add(&self, state: &mut State<M>, entry: Entry<M>) {
        entry.place.send_replace(state.ahead());
        state.waiting.push_back(entry);
        self.changed.notify_one();
    }

    /// Nothing that runs under the lock panics halfway through a change.
    fn lock(&self) -> MutexGuard<'_, State<M>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<M> Line for Queue<M> {
    fn forget_the_left(&self) {
        self.lock().forget_the_left();
    }
}

impl<M> std::fmt::Debug for Queue<M> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Queue").field("capacity", &self.capacity).finish_non_exhaustive()
    }
}

impl<M> State<M> {
    fn ahead(&self) -> usize {
        self.waiting.len() + usize::from(self.running)
    }

    /// Drops entries whose callers left.
    fn forget_the_left(&mut self) {
        let before = self.waiting.len();
        self.waiting.retain(|entry| {
            let left = entry.cancel.is_cancelled();
            if left {
                entry.span.in_scope(|| tracing::debug!("skipped: the caller left"));
            }
            !left
        });
        if self.waiting.len() < before {
            self.tell_places();
        }
    }

    fn tell_places(&self) {
        for (i, entry) in self.waiting.iter().enumerate() {
            let ahead = i + usize::from(self.running);
            entry.place.send_if_modified(|place| std::mem::replace(place, ahead) != ahead);
        }
    }
}
