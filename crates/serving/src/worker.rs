//! One OS thread owns a model; everybody else sends it work through a bounded queue.
//!
//! The model never moves between threads and is never locked, and no async task ever waits on a
//! tensor. Work whose caller left is skipped; work that finds the queue full is refused at once
//! with the time after which to try again. A panic costs the job it happened in, not the service.

mod queue;

use std::{
    any::Any,
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    thread,
    time::Instant,
};

use llm_dit_proto::Fault;
use tokio::sync::{oneshot, watch};
use tokio_util::sync::CancellationToken;
use tracing::Span;

use self::queue::{Entry, Line, Queue};

/// A handle on the thread that owns an `M`. The thread ends, and drops the model, when the last
/// handle is gone and the queue is empty.
pub struct Worker<M> {
    shared: Arc<Shared<M>>,
}

/// The answer to come.
#[derive(Debug)]
pub struct Ticket<T> {
    position: usize,
    places: watch::Receiver<usize>,
    line: Arc<dyn Line>,
    cancel: CancellationToken,
    reply: oneshot::Receiver<Result<T, Fault>>,
}

/// Closes the queue with the last handle. (The thread itself holds only the queue.)
struct Shared<M> {
    name: &'static str,
    queue: Arc<Queue<M>>,
}

impl<M: Send + 'static> Worker<M> {
    /// Starts the thread `name` with `model`. At most `capacity` jobs wait while one runs.
    pub fn spawn(name: &'static str, capacity: usize, model: M) -> io::Result<Self> {
        let queue = Arc::new(Queue::new(capacity));
        let thread_queue = Arc::clone(&queue);
        thread::Builder::new().name(name.to_owned()).spawn(move || serve(&thread_queue, model))?;
        Ok(Self { shared: Arc::new(Shared { name, queue }) })
    }

    /// Queues `work`, or says [`Fault::Busy`]. Work is skipped when `cancel` has fired before its
    /// turn; work that takes long should look at it as well.
    pub fn submit<T, F>(&self, cancel: &CancellationToken, work: F) -> Result<Ticket<T>, Fault>
    where
        F: FnOnce(&mut M) -> T + Send + 'static,
        T: Send + 'static,
    {
        let (entry, ticket) = self.entry(cancel, work);
        self.shared.queue.push(entry).map_err(|full| Fault::Busy {
            message: format!(
                "the {} is busy and {} requests wait already; try again later",
                self.shared.name, full.waiting
            ),
            retry_after: full.retry_after,
        })?;
        Ok(ticket.queued())
    }

    /// Queues the next part of a request whose first part went through [`Worker::submit`], even
    /// when the queue is full: what was let in is not turned away halfway. Each caller may have
    /// one such part waiting, so the queue stays bounded by the number of requests let in.
    pub fn submit_next<T, F>(&self, cancel: &CancellationToken, work: F) -> Ticket<T>
    where
        F: FnOnce(&mut M) -> T + Send + 'static,
        T: Send + 'static,
    {
        let (entry, ticket) = self.entry(cancel, work);
        self.shared.queue.push_anyway(entry);
        ticket.queued()
    }

    fn entry<T, F>(&self, cancel: &CancellationToken, work: F) -> (Entry<M>, Ticket<T>)
    where
        F: FnOnce(&mut M) -> T + Send + 'static,
        T: Send + 'static,
    {
        let (sender, reply) = oneshot::channel();
        let name = self.shared.name;
        let work = Box::new(move |model: &mut M| {
            // A model keeps nothing from job to job but its weights, and marks them as in doubt
            // while it changes them, so a job that panicked leaves nothing half done unnoticed.
            let result = catch_unwind(AssertUnwindSafe(|| work(model))).map_err(|panic| {
                tracing::error!(worker = name, panic = message(&*panic), "a job panicked");
                Fault::Internal(format!("the {name} failed; its log has the cause"))
            });
            let reply: Box<dyn FnOnce()> = Box::new(move || {
                // A caller that left does not read it.
                let _ = sender.send(result);
            });
            reply
        });
        let (place, places) = watch::channel(0);
        let entry = Entry { cancel: cancel.clone(), span: Span::current(), place, work };
        let line = Arc::clone(&self.shared.queue) as Arc<dyn Line>;
        (entry, Ticket { position: 0, places, line, cancel: cancel.clone(), reply })
    }
}

impl<M> Clone for Worker<M> {
    fn clone(&self) -> Self {
        Self { shared: Arc::clone(&self.shared) }
    }
}

impl<M> std::fmt::Debug for Worker<M> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Worker").field("name", &self.shared.name).finish_non_exhaustive()
    }
}

impl<M> Drop for Shared<M> {
    fn drop(&mut self) {
        self.queue.close();
    }
}

impl<T> Ticket<T> {
    /// Now that it has a place.
    fn queued(mut self) -> Self {
        self.position = *self.places.borrow_and_update();
        self
    }

    /// Jobs ahead of this one when it was queued, the running one included.
    pub fn position(&self) -> usize {
        self.position
    }

    /// Changes of the position from then on. It falls as jobs end or their callers leave, to 0 at
    /// the latest when this job begins.
    pub fn places(&self) -> watch::Receiver<usize> {
        self.places.clone()
    }

    /// The result; [`Fault::Cancelled`] as soon as the token fires.
    pub async fn wait(self) -> Result<T, Fault> {
        let cancelled = || Fault::Cancelled("the request was cancelled".to_owned());
        tokio::select! {
            // A result that is there wins over a cancellation at the same time.
            biased;
            reply = self.reply => match reply {
                Ok(result) => result,
                Err(_) if self.cancel.is_cancelled() => Err(cancelled()),
                Err(_) => Err(Fault::Unavailable("the service is shutting down".to_owned())),
            },
            () = self.cancel.cancelled() => {
                self.line.forget_the_left();
                Err(cancelled())
            }
        }
    }
}

/// The thread's life.
fn serve<M>(queue: &Queue<M>, mut model: M) {
    while let Some(entry) = queue.next() {
        let started = Instant::now();
        let reply = entry.span.in_scope(|| (entry.work)(&mut model));
        // First, so that a caller who asks again on the reply finds the place free.
        queue.done(started.elapsed());
        reply();
    }
}

/// What a panic said.
fn message(panic: &(dyn Any + Send)) -> &str {
    panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no message")
}

#[cfg(test)]
mod tests;
