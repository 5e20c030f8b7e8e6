//! One OS thread owns a model; all other threads send it work through a bounded queue.
//!
//! The model never moves between threads and is never locked, and no async task ever waits on a
//! tensor. Work whose caller left is skipped; work that finds the queue full is refused at once
//! with the time after which to try again. A panic costs the job it happened in, not the service.
//!
//! A model that can do several jobs of one kind in one go says so with [`Batch`].

mod batch;
mod meter;
mod queue;
mod reply;

use std::{
    any::Any,
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    sync::Arc,
    thread,
    time::Instant,
};

use llm_dit_fault::Fault;
use llm_dit_telemetry::{
    metrics::{self, Observer},
    request_id::RequestId,
};
use tokio::sync::{oneshot, watch};
use tokio_util::sync::CancellationToken;
use tracing::Span;

use self::queue::{Entry, Full, Line, Queue, Turn, Wait, Work};
use self::reply::{Reply, failed, reply};
pub use self::{
    batch::{Batch, Unbatched},
    queue::Place,
    reply::Answer,
};
use crate::health::{Condition, EngineHealth, Trial};

/// A handle on the thread that owns an `M`, which does pieces of the kind `K` in one go. The thread
/// ends, and drops the model, when the last handle is gone and the queue is empty.
pub struct Worker<M, K: Batch<M> = Unbatched> {
    shared: Arc<Shared<M, K>>,
}

/// The answer to come.
#[derive(Debug)]
pub struct Ticket<T> {
    position: usize,
    places: watch::Receiver<usize>,
    line: Arc<dyn Line>,
    cancel: CancellationToken,
    conditions: watch::Receiver<Condition>,
    reply: oneshot::Receiver<Result<T, Fault>>,
}

/// Closes the queue with the last handle. (The thread itself holds only the queue.)
struct Shared<M, K: Batch<M>> {
    name: &'static str,
    queue: Arc<Queue<M, K>>,
    health: EngineHealth,
    _observer: Observer,
}

/// Marks the engine as gone when its thread ends for any reason, and answers the jobs that wait.
struct LastWill<M, K: Batch<M>> {
    queue: Arc<Queue<M, K>>,
    health: EngineHealth,
}

impl<M: Send + 'static, K: Batch<M>> Worker<M, K> {
    /// Starts the thread `name` with `model`. At most `capacity` jobs wait while one runs.
    ///
    /// # Errors
    ///
    /// Fails if the system refuses the thread.
    pub fn spawn(name: &'static str, capacity: usize, model: M) -> io::Result<Self> {
        let queue = Arc::new(Queue::new(name, capacity));
        let health = EngineHealth::default();
        let will = LastWill { queue: Arc::clone(&queue), health: health.clone() };
        thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || serve(name, &will.queue, &will.health, model))?;
        let observed = Arc::downgrade(&queue);
        let observer = metrics::observe(move || {
            if let Some(queue) = observed.upgrade() {
                queue.observe();
            }
        });
        Ok(Self { shared: Arc::new(Shared { name, queue, health, _observer: observer }) })
    }

    /// How the model is. A panic counts as a failure; of others only the work itself can tell.
    pub fn health(&self) -> &EngineHealth {
        &self.shared.health
    }

    /// Tries the model with `trial` now and then while it is unhealthy, and once when it is in doubt.
    /// Must be called inside a tokio runtime.
    pub fn probe_while_unhealthy(&self, trial: impl Fn(&mut M) -> bool + Clone + Send + 'static) {
        self.health().probe_while_unhealthy(self.trials(trial));
    }

    /// Likewise all the time, for a model on another machine, which can go away while nobody uses it.
    pub fn follow(&self, trial: impl Fn(&mut M) -> bool + Clone + Send + 'static) {
        self.health().follow(self.trials(trial));
    }

    /// A trial takes its turn in the queue.
    fn trials(
        &self,
        trial: impl Fn(&mut M) -> bool + Clone + Send + 'static,
    ) -> impl FnMut() -> Pin<Box<dyn Future<Output = Trial> + Send>> + Send + 'static {
        let shared = Arc::downgrade(&self.shared);
        move || {
            let (shared, trial) = (shared.upgrade(), trial.clone());
            Box::pin(async move {
                let Some(worker) = shared.map(|shared| Self { shared }) else {
                    return Trial::NotRun;
                };
                let ticket = worker.submit(&CancellationToken::new(), move |model| trial(model));
                drop(worker);
                let Ok(ticket) = ticket else { return Trial::NotRun };
                match ticket.wait().await {
                    Ok(true) => Trial::Works,
                    Ok(false) | Err(_) => Trial::Fails,
                }
            })
        }
    }

    /// Queues `work`, or says [`Fault::Busy`]. Work is skipped when `cancel` has fired before its
    /// turn; work that takes long should look at it as well.
    pub fn submit<T, F>(&self, cancel: &CancellationToken, work: F) -> Result<Ticket<T>, Fault>
    where
        F: FnOnce(&mut M) -> T + Send + 'static,
        T: Send + 'static,
    {
        let (work, reply) = self.single(work);
        self.push(cancel, work, reply)
    }

    /// As [`Worker::submit`], for what may be done together with others of its kind.
    ///
    /// # Errors
    ///
    /// [`Fault::Busy`] if the queue is full; [`Fault::Internal`] if the worker has ended.
    pub fn submit_piece(
        &self,
        cancel: &CancellationToken,
        piece: K,
    ) -> Result<Ticket<K::Output>, Fault> {
        let (sender, reply) = reply();
        self.push(cancel, Work::Piece(piece, sender), reply)
    }

    /// Takes a place for a piece whose data is still arriving.
    ///
    /// # Errors
    ///
    /// As [`Worker::submit_piece`].
    pub fn reserve(&self) -> Result<Place, Fault> {
        self.check()?;
        self.shared.queue.reserve().map_err(|full| self.busy(&full))
    }

    /// As [`Worker::submit_piece`], at a place that [`Worker::reserve`] of this worker gave.
    ///
    /// # Errors
    ///
    /// [`Fault::Internal`] or [`Fault::Unavailable`] if the worker has ended or has stalled.
    pub fn submit_reserved(
        &self,
        cancel: &CancellationToken,
        piece: K,
        place: Place,
    ) -> Result<Ticket<K::Output>, Fault> {
        self.check()?;
        let (sender, reply) = reply();
        let (entry, ticket) = self.entry(cancel, Work::Piece(piece, sender), reply);
        self.shared.queue.push_reserved(entry, place);
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
        let (work, reply) = self.single(work);
        let (entry, ticket) = self.entry(cancel, work, reply);
        self.shared.queue.push_anyway(entry);
        ticket.queued()
    }

    fn push<T>(
        &self,
        cancel: &CancellationToken,
        work: Work<M, K>,
        reply: oneshot::Receiver<Result<T, Fault>>,
    ) -> Result<Ticket<T>, Fault> {
        self.check()?;
        let (entry, ticket) = self.entry(cancel, work, reply);
        self.shared.queue.push(entry).map_err(|full| self.busy(&full))?;
        Ok(ticket.queued())
    }

    /// Refuses work that would wait for ever.
    fn check(&self) -> Result<(), Fault> {
        if self.shared.health.is_gone() {
            let name = self.shared.name;
            return Err(Fault::Internal(format!("the {name}'s thread has ended")));
        }
        if self.shared.health.watch().borrow().is_stalled() {
            return Err(stalled());
        }
        Ok(())
    }

    fn busy(&self, full: &Full) -> Fault {
        Fault::Busy {
            message: format!(
                "the {} is busy and {} requests are queued; try again later",
                self.shared.name, full.waiting
            ),
            retry_after: full.retry_after,
        }
    }

    fn single<T, F>(&self, work: F) -> (Work<M, K>, oneshot::Receiver<Result<T, Fault>>)
    where
        F: FnOnce(&mut M) -> T + Send + 'static,
        T: Send + 'static,
    {
        let (sender, reply) = reply();
        let (name, health) = (self.shared.name, self.shared.health.clone());
        let (panics, id) = (self.shared.queue.panics(), RequestId::current());
        let work = Box::new(move |model: &mut M| {
            // A model keeps nothing from job to job but its weights, and marks them as in doubt
            // while it changes them, so a job that panicked leaves nothing half done unnoticed.
            let work = || RequestId::during(id, || work(model));
            let result = catch_unwind(AssertUnwindSafe(work)).map_err(|panic| {
                tracing::error!(worker = name, panic = message(&*panic), "a job panicked");
                health.failed();
                panics.increment(1);
                failed(name)
            });
            let reply: Box<dyn FnOnce()> = Box::new(move || {
                // A caller that left does not read it.
                let _ = sender.send(result);
            });
            reply
        });
        (Work::Single(work), reply)
    }

    fn entry<T>(
        &self,
        cancel: &CancellationToken,
        work: Work<M, K>,
        reply: oneshot::Receiver<Result<T, Fault>>,
    ) -> (Entry<M, K>, Ticket<T>) {
        let (place, places) = watch::channel(0);
        let wait = Wait::begin(self.shared.name);
        let entry = Entry { cancel: cancel.clone(), span: Span::current(), wait, place, work };
        let line = Arc::clone(&self.shared.queue) as Arc<dyn Line>;
        let (cancel, conditions) = (cancel.clone(), self.shared.health.watch());
        (entry, Ticket { position: 0, places, line, cancel, conditions, reply })
    }
}

impl<M, K: Batch<M>> Clone for Worker<M, K> {
    fn clone(&self) -> Self {
        Self { shared: Arc::clone(&self.shared) }
    }
}

impl<M, K: Batch<M>> std::fmt::Debug for Worker<M, K> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Worker").field("name", &self.shared.name).finish_non_exhaustive()
    }
}

impl<M, K: Batch<M>> Drop for Shared<M, K> {
    fn drop(&mut self) {
        self.queue.close();
    }
}

impl<M, K: Batch<M>> Drop for LastWill<M, K> {
    fn drop(&mut self) {
        if thread::panicking() {
            tracing::error!("the engine thread has ended; restart the program");
        }
        self.health.gone();
        self.queue.abandon();
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
    ///
    /// # Errors
    ///
    /// The job's own fault, [`Fault::Cancelled`], or [`Fault::Unavailable`] if the worker stopped
    /// before the job was done, or has stalled.
    pub async fn wait(mut self) -> Result<T, Fault> {
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
                self.line.drop_cancelled();
                Err(cancelled())
            }
            Ok(_) = self.conditions.wait_for(|condition| condition.is_stalled()) => Err(stalled()),
        }
    }
}

fn stalled() -> Fault {
    let message = "the engine of the service makes no progress; its health says so";
    Fault::Unavailable(message.to_owned())
}

/// The thread's life.
fn serve<M: Send + 'static, K: Batch<M>>(
    name: &'static str,
    queue: &Arc<Queue<M, K>>,
    health: &EngineHealth,
    mut model: M,
) {
    while let Some(turn) = queue.next() {
        let started = Instant::now();
        health.progressed();
        match turn {
            Turn::Single(span, work) => {
                let reply = span.in_scope(|| work(&mut model));
                health.idle();
                // First, so that a caller who asks again on the reply finds the place free.
                queue.done(1, started.elapsed());
                reply();
            }
            Turn::Batch(pieces) => {
                let jobs = pieces.len();
                run_together(name, queue, health, &mut model, pieces);
                health.idle();
                queue.done(jobs, started.elapsed());
            }
        }
    }
}

fn run_together<M: Send + 'static, K: Batch<M>>(
    name: &'static str,
    queue: &Arc<Queue<M, K>>,
    health: &EngineHealth,
    model: &mut M,
    pieces: Vec<(Span, K, Reply<K::Output>)>,
) {
    let span = match &pieces[..] {
        [(span, ..)] => span.clone(),
        // A span has one parent. What is each picture's own is in spans of its own request.
        _ => {
            let span = tracing::info_span!(parent: None, "together", jobs = pieces.len());
            pieces.iter().for_each(|(piece, ..)| {
                span.follows_from(piece);
            });
            span
        }
    };
    let pieces = pieces.into_iter().map(|(_, piece, reply)| {
        let queue = Arc::clone(queue);
        (piece, Answer::new(name, reply, move || queue.answered()))
    });
    let pieces = pieces.collect();
    // Answers that a panic drops tell their callers.
    let run = || catch_unwind(AssertUnwindSafe(|| K::run(model, pieces)));
    span.in_scope(|| {
        if let Err(panic) = run() {
            tracing::error!(worker = name, panic = message(&*panic), "a job panicked");
            health.failed();
            queue.panics().increment(1);
        }
    });
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
