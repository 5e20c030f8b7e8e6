//! Counters of pictures and jobs.

use std::time::Instant;

use llm_dit_fault::Fault;
use llm_dit_telemetry::metrics::{GATEWAY_PICTURES, GATEWAY_SECONDS, JOBS_ENDED};
use metrics::{counter, histogram};

use crate::error::Error;

/// Counts a request for a picture, whatever its outcome: one that is dropped without an end was
/// cancelled.
#[derive(Debug)]
pub(crate) struct Asked {
    begun: Instant,
    outcome: &'static str,
}

impl Asked {
    /// Starts the clock of a request for a picture.
    pub fn begin() -> Self {
        Self { begun: Instant::now(), outcome: "cancelled" }
    }

    /// Counts the request by its outcome.
    pub fn end<T>(mut self, result: &Result<T, Error>) {
        self.outcome = match result {
            Ok(_) => {
                histogram!(GATEWAY_SECONDS.name).record(self.begun.elapsed());
                "done"
            }
            Err(Error::Fault(Fault::Busy { .. })) => "busy",
            Err(Error::Fault(Fault::Cancelled(_))) => "cancelled",
            Err(_) => "failed",
        };
    }
}

impl Drop for Asked {
    fn drop(&mut self) {
        counter!(GATEWAY_PICTURES.name, "outcome" => self.outcome).increment(1);
    }
}

/// Counts a job that is over.
pub(crate) fn job_ended(outcome: &'static str) {
    counter!(JOBS_ENDED.name, "outcome" => outcome).increment(1);
}
