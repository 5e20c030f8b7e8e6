//! The place of a connection, which it keeps only if it says something.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex, PoisonError, Weak,
        atomic::{AtomicU8, Ordering},
    },
    task::Context,
};

use futures::task::AtomicWaker;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

const SILENT: u8 = 0;
const SPOKEN: u8 = 1;
const EVICTED: u8 = 2;

/// All places, and who has one without having sent a byte.
#[derive(Debug)]
pub(super) struct Places {
    free: Arc<Semaphore>,
    /// The oldest first.
    silent: Mutex<VecDeque<Weak<Place>>>,
}

/// One connection's place.
#[derive(Debug)]
pub(super) struct Place {
    state: AtomicU8,
    /// Of the task that waits for its first byte.
    waker: AtomicWaker,
    permit: Mutex<Option<OwnedSemaphorePermit>>,
}

impl Places {
    pub fn new(max: usize) -> Self {
        let free = Arc::new(Semaphore::new(max.clamp(1, Semaphore::MAX_PERMITS)));
        Self { free, silent: Mutex::default() }
    }

    /// A free place, or that of the connection that has been silent for longest; `None` if all others
    /// have spoken.
    pub fn take(&self) -> Option<Arc<Place>> {
        let mut silent = self.silent.lock().unwrap_or_else(PoisonError::into_inner);
        let permit = match Arc::clone(&self.free).try_acquire_owned() {
            Ok(permit) => Some(permit),
            Err(_) => std::iter::from_fn(|| silent.pop_front())
                .filter_map(|place| place.upgrade())
                .find_map(|place| place.evict()),
        };
        let place = Arc::new(Place {
            state: AtomicU8::new(SILENT),
            waker: AtomicWaker::new(),
            permit: Mutex::new(Some(permit?)),
        });
        // Those that spoke or left need not be remembered.
        if silent.len() >= 2 * silent.capacity().max(64) / 3 {
            silent.retain(|place| place.upgrade().is_some_and(|place| place.is_silent()));
        }
        silent.push_back(Arc::downgrade(&place));
        Some(place)
    }
}

impl Place {
    fn is_silent(&self) -> bool {
        self.state.load(Ordering::Acquire) == SILENT
    }

    /// Gives its place up, unless it has spoken.
    fn evict(&self) -> Option<OwnedSemaphorePermit> {
        let was = self.state.compare_exchange(SILENT, EVICTED, Ordering::AcqRel, Ordering::Acquire);
        was.ok()?;
        let permit = self.permit.lock().unwrap_or_else(PoisonError::into_inner).take();
        self.waker.wake();
        permit
    }

    /// The peer has sent something.
    pub fn spoke(&self) {
        // An eviction at the same time stays one.
        let _ = self.state.compare_exchange(SILENT, SPOKEN, Ordering::AcqRel, Ordering::Acquire);
    }

    /// Whether another connection has this place now. If not, the task is woken when one takes it.
    pub fn is_lost(&self, context: &mut Context<'_>) -> bool {
        match self.state.load(Ordering::Acquire) {
            SPOKEN => false,
            EVICTED => true,
            _ => {
                self.waker.register(context.waker());
                self.state.load(Ordering::Acquire) == EVICTED
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_silent_connection_gives_its_place_to_the_next() {
        let places = Places::new(2);
        let mut context = Context::from_waker(std::task::Waker::noop());
        let [first, second] = [(); 2].map(|()| places.take().expect("free"));
        first.spoke();
        // The only one that is silent.
        let third = places.take().expect("the second one's");
        assert!(second.is_lost(&mut context));
        assert!(!first.is_lost(&mut context) && !third.is_lost(&mut context));
        third.spoke();
        assert!(places.take().is_none(), "all have spoken");
        drop(first);
        assert!(places.take().is_some());
        second.spoke();
        assert!(second.is_lost(&mut context), "too late");
    }

    #[test]
    fn only_silent_connections_are_remembered() {
        let places = Places::new(1);
        for _ in 0..10_000 {
            drop(places.take().expect("free"));
        }
        assert!(places.silent.lock().expect("whole").len() < 1000);
    }
}
