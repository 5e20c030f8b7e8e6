//! Metrics of a worker's queue. The handles are made once, so that counting is an atomic operation
//! without a look-up.

use std::time::Duration;

use llm_dit_telemetry::metrics::{
    BATCH_SIZE, QUEUE_CANCELS, QUEUE_CAPACITY, QUEUE_DEPTH, QUEUE_REJECTIONS, QUEUE_RUNNING,
    QUEUE_WAIT, TURN_SECONDS, WORKER_PANICS, begin,
};
use metrics::{Counter, Histogram, counter, gauge, histogram};

pub(super) struct WorkerMeter {
    worker: String,
    wait: Histogram,
    rejections: Counter,
    cancels: Counter,
    batch: Histogram,
    turn: Histogram,
    panics: Counter,
}

impl WorkerMeter {
    /// `name` is the thread's.
    pub fn new(name: &str) -> Self {
        // Handles that were made before there is a registry would count nothing for ever.
        begin();
        let worker = name.replace(' ', "_");
        let label = || [("worker", worker.clone())];
        Self {
            wait: histogram!(QUEUE_WAIT.name, &label()),
            rejections: counter!(QUEUE_REJECTIONS.name, &label()),
            cancels: counter!(QUEUE_CANCELS.name, &label()),
            batch: histogram!(BATCH_SIZE.name, &label()),
            turn: histogram!(TURN_SECONDS.name, &label()),
            panics: counter!(WORKER_PANICS.name, &label()),
            worker,
        }
    }

    /// How the queue is now.
    pub fn state(&self, capacity: usize, waiting: usize, running: usize) {
        let label = || [("worker", self.worker.clone())];
        gauge!(QUEUE_CAPACITY.name, &label()).set(capacity as f64);
        gauge!(QUEUE_DEPTH.name, &label()).set(waiting as f64);
        gauge!(QUEUE_RUNNING.name, &label()).set(running as f64);
    }

    /// Records how long a job waited before it ran.
    pub fn waited(&self, time: Duration) {
        self.wait.record(time);
    }

    /// Counts a job that was refused because the queue was full.
    pub fn rejected(&self) {
        self.rejections.increment(1);
    }

    /// So many callers left their places.
    pub fn left(&self, callers: usize) {
        self.cancels.increment(callers as u64);
    }

    /// Records one turn of the worker: its number of jobs and how long it took.
    pub fn turn(&self, jobs: usize, took: Duration) {
        self.batch.record(jobs as f64);
        self.turn.record(took);
    }

    /// For where they are caught.
    pub fn panics(&self) -> Counter {
        self.panics.clone()
    }
}
