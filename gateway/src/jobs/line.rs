//! A queue of jobs within one process.

use std::future;

use tokio::sync::{
    Mutex,
    mpsc::{self, UnboundedReceiver, UnboundedSender},
};

use crate::records::job::JobId;

/// Bounded by the places for pictures: each job that waits has one, or was left by an earlier
/// gateway.
#[derive(Debug)]
pub(crate) struct Line {
    send: UnboundedSender<JobId>,
    receive: Mutex<UnboundedReceiver<JobId>>,
}

impl Default for Line {
    fn default() -> Self {
        let (send, receive) = mpsc::unbounded_channel();
        Self { send, receive: Mutex::new(receive) }
    }
}

impl Line {
    /// Appends a job.
    pub fn push(&self, job: JobId) {
        // The receiver lives as long as this does.
        let _ = self.send.send(job);
    }

    /// Waits for the next job, in the order in which they came.
    pub async fn next(&self) -> JobId {
        match self.receive.lock().await.recv().await {
            Some(job) => job,
            None => future::pending().await,
        }
    }
}
