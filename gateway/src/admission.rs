//! Limits on the concurrent work: pictures, and large bodies.

use std::{sync::Arc, time::Duration};

use llm_dit_fault::Fault;
use llm_dit_telemetry::metrics::GATEWAY_REJECTIONS;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

/// Uploads of pictures that are read at the same time.
const MAX_UPLOADS: usize = 8;
/// Seconds after which there may be room again.
const RETRY_FULL: Duration = Duration::from_secs(2);

/// Hands out places, until the gateway is to end.
#[derive(Debug)]
pub(crate) struct Admissions {
    requests: Arc<Semaphore>,
    limit: usize,
    uploads: Arc<Semaphore>,
    /// Fires when the gateway is to end: nothing new is begun.
    draining: CancellationToken,
}

/// A place among the pictures that are being made.
#[derive(Debug)]
pub(crate) struct Admission {
    _permit: OwnedSemaphorePermit,
}

impl Admissions {
    /// At most `limit` pictures at a time.
    pub fn new(limit: usize) -> Self {
        Self {
            requests: Arc::new(Semaphore::new(limit)),
            limit,
            uploads: Arc::new(Semaphore::new(MAX_UPLOADS)),
            draining: CancellationToken::new(),
        }
    }

    /// A place for one more picture: what waits in the gateway takes memory.
    ///
    /// # Errors
    ///
    /// 503 when all places are taken or the gateway is shutting down.
    pub fn admit(&self) -> Result<Admission, Fault> {
        if self.is_draining() {
            return Err(Fault::Unavailable("the gateway is shutting down".to_owned()));
        }
        let permit = Arc::clone(&self.requests).try_acquire_owned();
        let permit = permit.map_err(|_| {
            full(
                "pictures",
                format!("the gateway is busy with {} images; try again later", self.limit),
            )
        })?;
        Ok(Admission { _permit: permit })
    }

    /// A place as soon as one is free; `None` once the gateway is shutting down.
    pub async fn wait(&self) -> Option<Admission> {
        let permit = Arc::clone(&self.requests).acquire_owned();
        let permit = self.draining.run_until_cancelled(permit).await?.ok()?;
        Some(Admission { _permit: permit })
    }

    /// A place to read a large body.
    ///
    /// # Errors
    ///
    /// 503 when all of them are taken.
    pub fn admit_upload(&self) -> Result<OwnedSemaphorePermit, Fault> {
        Arc::clone(&self.uploads).try_acquire_owned().map_err(|_| {
            full("uploads", format!("{MAX_UPLOADS} images are being uploaded; try again later"))
        })
    }

    /// Refuses new work, and returns when all admitted work is done.
    pub async fn drain(&self) {
        self.draining.cancel();
        let all = u32::try_from(self.limit).unwrap_or(u32::MAX);
        // Fails only when the semaphore is closed, which it never is.
        let _ = self.requests.acquire_many(all).await;
    }

    /// Whether the gateway has begun to drain.
    pub fn is_draining(&self) -> bool {
        self.draining.is_cancelled()
    }

    /// Fires when the gateway begins to drain.
    pub fn draining(&self) -> &CancellationToken {
        &self.draining
    }

    /// Pictures in flight.
    pub fn running(&self) -> usize {
        self.limit - self.requests.available_permits()
    }

    /// Pictures that may be in flight.
    pub fn limit(&self) -> usize {
        self.limit
    }
}

/// There is no room for more of `what`.
fn full(what: &'static str, message: String) -> Fault {
    metrics::counter!(GATEWAY_REJECTIONS.name, "what" => what).increment(1);
    Fault::Busy { message, retry_after: RETRY_FULL }
}
