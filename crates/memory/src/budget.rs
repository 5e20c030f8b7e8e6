//! The budget and what is reserved in it.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use llm_dit_fault::Fault;
use llm_dit_telemetry::metrics::{
    BUDGET_LIMIT, BUDGET_PEAK, BUDGET_REJECTIONS, BUDGET_RESERVED, Observer, observe,
};

/// The limit if none is configured: [`MemoryArgs`](crate::MemoryArgs) has the same.
pub const DEFAULT_BYTES: u64 = 2 << 30;

/// Time after which a refused request may be repeated.
const RETRY_AFTER: Duration = Duration::from_secs(2);

/// Bytes for the requests of one process. Clones share them.
#[derive(Clone, Debug)]
pub struct MemoryBudget {
    bytes: Arc<Counted>,
    _observer: Observer,
}

#[derive(Debug)]
struct Counted {
    limit: u64,
    reserved: AtomicU64,
    peak: AtomicU64,
}

/// Bytes of a budget, until this is dropped.
#[derive(Debug)]
#[must_use = "the bytes are released when this is dropped"]
pub struct Reservation {
    /// `None`: outside of any budget.
    budget: Option<Arc<Counted>>,
    /// The item, as error messages name it.
    what: &'static str,
    bytes: u64,
}

/// A buffer with the reservation that covers it.
struct Held {
    bytes: Bytes,
    _reservation: Reservation,
}

impl Default for MemoryBudget {
    fn default() -> Self {
        Self::new(DEFAULT_BYTES)
    }
}

impl MemoryBudget {
    /// A budget of `limit` bytes, which `/metrics` reports for as long as it lives.
    pub fn new(limit: u64) -> Self {
        let bytes =
            Arc::new(Counted { limit, reserved: AtomicU64::new(0), peak: AtomicU64::new(0) });
        let observed = Arc::downgrade(&bytes);
        let observer = observe(move || {
            let Some(bytes) = observed.upgrade() else { return };
            let now = |value: &AtomicU64| value.load(Ordering::Relaxed) as f64;
            metrics::gauge!(BUDGET_LIMIT.name).set(bytes.limit as f64);
            metrics::gauge!(BUDGET_RESERVED.name).set(now(&bytes.reserved));
            metrics::gauge!(BUDGET_PEAK.name).set(now(&bytes.peak));
        });
        Self { bytes, _observer: observer }
    }

    /// The most that may be reserved, in bytes.
    pub fn limit(&self) -> u64 {
        self.bytes.limit
    }

    /// Bytes reserved now.
    pub fn reserved(&self) -> u64 {
        self.bytes.reserved.load(Ordering::Relaxed)
    }

    /// The most bytes that were reserved at one time.
    pub fn peak(&self) -> u64 {
        self.bytes.peak.load(Ordering::Relaxed)
    }

    /// Reserves bytes for one item; `what` names it in error messages, as in "the init image".
    ///
    /// # Errors
    ///
    /// [`Fault::Busy`] if the free bytes do not suffice, [`Fault::TooLarge`] if no budget of this
    /// size ever could.
    pub fn reserve(&self, what: &'static str, bytes: u64) -> Result<Reservation, Fault> {
        let mut reservation = self.nothing(what);
        reservation.resize(bytes)?;
        Ok(reservation)
    }

    /// A reservation of no bytes, for what grows.
    pub fn nothing(&self, what: &'static str) -> Reservation {
        Reservation { budget: Some(Arc::clone(&self.bytes)), what, bytes: 0 }
    }
}

impl Reservation {
    /// Accepts any size and counts nothing, for work that has no budget.
    pub fn unlimited() -> Self {
        Self { budget: None, what: "", bytes: 0 }
    }

    /// Bytes reserved by this.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Changes the number of bytes. A failure leaves it as it was.
    ///
    /// # Errors
    ///
    /// As [`MemoryBudget::reserve`]; releasing never fails.
    pub fn resize(&mut self, bytes: u64) -> Result<(), Fault> {
        if let Some(budget) = &self.budget {
            match bytes.checked_sub(self.bytes) {
                Some(more) => budget.take(self.what, bytes, more)?,
                None => budget.release(self.bytes - bytes),
            }
        }
        self.bytes = bytes;
        Ok(())
    }

    /// Adds bytes.
    ///
    /// # Errors
    ///
    /// As [`MemoryBudget::reserve`].
    pub fn grow(&mut self, more: u64) -> Result<(), Fault> {
        self.resize(self.bytes.saturating_add(more))
    }

    /// Gives `bytes`, or as many as there are, to a reservation of their own.
    pub fn split(&mut self, bytes: u64) -> Self {
        let bytes = bytes.min(self.bytes);
        self.bytes -= bytes;
        Self { budget: self.budget.clone(), what: self.what, bytes }
    }

    /// Releases all but `bytes`; does nothing if there are no more than that.
    pub fn shrink_to(&mut self, bytes: u64) {
        if bytes < self.bytes {
            if let Some(budget) = &self.budget {
                budget.release(self.bytes - bytes);
            }
            self.bytes = bytes;
        }
    }

    /// Shrinks to the buffer's length, and stays for as long as any clone or slice of it does.
    pub fn hold(mut self, bytes: Bytes) -> Bytes {
        self.shrink_to(bytes.len() as u64);
        Bytes::from_owner(Held { bytes, _reservation: self })
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.shrink_to(0);
    }
}

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Counted {
    /// Takes `more` bytes for an item of `bytes` in all.
    fn take(&self, what: &str, bytes: u64, more: u64) -> Result<(), Fault> {
        let mut free = 0;
        let fits = |reserved: u64| {
            free = self.limit.saturating_sub(reserved);
            (more <= free).then(|| reserved + more)
        };
        match self.reserved.fetch_update(Ordering::Relaxed, Ordering::Relaxed, fits) {
            Ok(before) => {
                self.peak.fetch_max(before + more, Ordering::Relaxed);
                Ok(())
            }
            Err(_) => {
                metrics::counter!(BUDGET_REJECTIONS.name).increment(1);
                Err(self.refusal(what, bytes, free))
            }
        }
    }

    fn refusal(&self, what: &str, bytes: u64, free: u64) -> Fault {
        let (needed, limit) = (mebibytes(bytes), mebibytes(self.limit));
        if bytes > self.limit {
            return Fault::TooLarge(format!(
                "{what} needs {needed} MiB of memory, and --max-memory of this server is {limit} MiB; send a smaller one, or raise --max-memory"
            ));
        }
        let message = format!(
            "{what} needs {needed} MiB of memory, and {} of the {limit} MiB of --max-memory are free; try again later",
            free >> 20
        );
        Fault::Busy { message, retry_after: RETRY_AFTER }
    }

    fn release(&self, bytes: u64) {
        self.reserved.fetch_sub(bytes, Ordering::Relaxed);
    }
}

/// Rounded up, so that no item seems to need nothing.
fn mebibytes(bytes: u64) -> u64 {
    bytes.div_ceil(1 << 20)
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    #[test]
    fn what_does_not_fit_is_refused_and_what_is_dropped_is_free() {
        let budget = MemoryBudget::new(10 << 20);
        let first = budget.reserve("the init image", 7 << 20).expect("fits");
        let Err(Fault::Busy { message, retry_after }) = budget.reserve("the body", 4 << 20) else {
            panic!("3 MiB are free");
        };
        assert_eq!(
            message,
            "the body needs 4 MiB of memory, and 3 of the 10 MiB of --max-memory are free; try again later"
        );
        assert_eq!(retry_after, RETRY_AFTER);
        let Err(Fault::TooLarge(message)) = budget.reserve("the body", 11 << 20) else {
            panic!("it never fits");
        };
        assert!(message.contains("raise --max-memory"), "{message}");
        drop(first);
        let second = budget.reserve("the body", 10 << 20).expect("fits now");
        assert_eq!((budget.reserved(), budget.peak()), (10 << 20, 10 << 20));
        drop(second);
        assert_eq!(budget.reserved(), 0);
    }

    #[test]
    fn a_reservation_grows_and_shrinks_and_a_failure_changes_nothing() {
        let budget = MemoryBudget::new(100);
        let mut reservation = budget.nothing("the body");
        reservation.grow(60).expect("fits");
        assert!(matches!(reservation.grow(41), Err(Fault::TooLarge(_))));
        let other = budget.reserve("another", 30).expect("fits");
        assert!(matches!(reservation.grow(11), Err(Fault::Busy { .. })));
        assert_eq!((reservation.bytes(), budget.reserved()), (60, 90));
        reservation.shrink_to(80);
        reservation.shrink_to(20);
        assert_eq!(budget.reserved(), 50);
        let part = reservation.split(15);
        assert_eq!((part.bytes(), reservation.bytes(), budget.reserved()), (15, 5, 50));
        drop(part);
        assert_eq!(reservation.split(80).bytes(), 5);
        assert_eq!(budget.reserved(), 30);
        drop((reservation, other));
        assert_eq!(budget.reserved(), 0);
        let mut free = Reservation::unlimited();
        free.grow(u64::MAX).expect("has no budget");
    }

    #[test]
    fn a_buffer_holds_its_bytes_as_long_as_a_slice_of_it_lives() {
        let budget = MemoryBudget::new(100);
        let reservation = budget.reserve("the image", 90).expect("fits");
        let held = reservation.hold(Bytes::from_static(b"0123456789"));
        assert_eq!(budget.reserved(), 10);
        let slice = held.slice(2..4);
        drop(held);
        assert_eq!((budget.reserved(), &slice[..]), (10, &b"23"[..]));
        drop(slice);
        assert_eq!(budget.reserved(), 0);
    }

    #[test]
    fn threads_together_never_exceed_the_limit() {
        let budget = MemoryBudget::new(1000);
        thread::scope(|scope| {
            for size in 1..=8 {
                let budget = budget.clone();
                scope.spawn(move || {
                    let mut held = Vec::new();
                    for _ in 0..1000 {
                        match budget.reserve("a part", size * 7) {
                            Ok(part) => held.push(part),
                            Err(_) => held.clear(),
                        }
                        assert!(budget.reserved() <= 1000);
                    }
                });
            }
        });
        assert_eq!(budget.reserved(), 0);
        assert!(budget.peak() <= 1000);
    }
}
