//! What all requests share.

use std::{path::PathBuf, sync::Arc, time::Duration};

use llm_dit_fault::Fault;
use llm_dit_telemetry::metrics::GATEWAY_REJECTIONS;
use llm_dit_templates::Library;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

use crate::{
    backends::Backends,
    deadlines::Deadlines,
    encode::Cache,
    error::Error,
    guard::Guard,
    history::History,
    jobs::{Forgetful, JobStore, Jobs},
    options::GatewayOptions,
};

/// Uploads of pictures that are read at the same time.
const MAX_UPLOADS: usize = 8;
/// Seconds after which there may be room again.
const RETRY_FULL: Duration = Duration::from_secs(2);

#[derive(Debug)]
pub(crate) struct Gateway {
    pub backends: Backends,
    pub cache: Arc<Cache>,
    pub templates: Library,
    /// `None`: no pictures are kept.
    pub history: Option<Arc<History>>,
    pub jobs: Jobs,
    /// `None`: there is no place for files.
    pub embeddings_dir: Option<PathBuf>,
    pub guard: Arc<Guard>,
    /// What a request gets at most.
    pub patience: Deadlines,
    /// Fires when the gateway is to end: nothing new is begun.
    pub draining: CancellationToken,
    requests: Arc<Semaphore>,
    pub max_requests: usize,
    uploads: Arc<Semaphore>,
}

/// A place among the pictures that are being made.
#[derive(Debug)]
pub(crate) struct Admission {
    _permit: OwnedSemaphorePermit,
}

impl Gateway {
    /// With all that an earlier gateway left.
    pub async fn open(options: &GatewayOptions, guard: Arc<Guard>) -> Result<Arc<Self>, Error> {
        let gateway = Arc::new(Self::new(options, guard)?);
        let failed = |fault| Error::History(format!("cannot load the stored jobs: {fault}"));
        if let Some(history) = &gateway.history
            && let Some(active) = history.loras().await.map_err(failed)?
        {
            gateway.backends.loras.replace(active);
        }
        Jobs::recover(&gateway).await.map_err(failed)?;
        Ok(gateway)
    }

    /// Must be called inside a tokio runtime.
    fn new(options: &GatewayOptions, guard: Arc<Guard>) -> Result<Self, Error> {
        let keep = &options.keep;
        let data = dirs::data_dir().map(|folder| folder.join("llm-dit"));
        let history = History::open(keep, data.as_deref())?.map(Arc::new);
        let store: Arc<dyn JobStore> = match &history {
            Some(history) => Arc::clone(history) as Arc<dyn JobStore>,
            None => Arc::new(Forgetful),
        };
        Ok(Self {
            backends: Backends::new(options)?,
            cache: Arc::new(Cache::new(keep.embedding_cache_bytes)),
            templates: Library::load(keep.templates_dir.as_deref())?,
            history,
            jobs: Jobs::new(store, keep.jobs),
            embeddings_dir: keep
                .embeddings_dir
                .clone()
                .or_else(|| data.map(|folder| folder.join("embeddings"))),
            guard,
            patience: Deadlines::new(options.access.request_timeout),
            draining: CancellationToken::new(),
            requests: Arc::new(Semaphore::new(keep.max_requests)),
            max_requests: keep.max_requests,
            uploads: Arc::new(Semaphore::new(MAX_UPLOADS)),
        })
    }

    /// A place for one more picture, or 503: what waits here takes memory.
    pub fn admit(&self) -> Result<Admission, Fault> {
        if self.draining.is_cancelled() {
            return Err(Fault::Unavailable("the gateway is shutting down".to_owned()));
        }
        let permit = Arc::clone(&self.requests).try_acquire_owned();
        let permit = permit.map_err(|_| {
            full(
                "pictures",
                format!("the gateway is busy with {} images; try again later", self.max_requests),
            )
        })?;
        Ok(Admission { _permit: permit })
    }

    /// A place as soon as there is one.
    pub async fn place(&self) -> Option<Admission> {
        let permit = Arc::clone(&self.requests).acquire_owned().await.ok()?;
        Some(Admission { _permit: permit })
    }

    /// Begins nothing new, and returns when all is done that was begun.
    pub async fn drain(&self) {
        self.draining.cancel();
        let all = u32::try_from(self.max_requests).unwrap_or(u32::MAX);
        // Fails only when nobody can have a place.
        let _ = self.requests.acquire_many(all).await;
    }

    /// Stores what there is to store; what is not done is left to the next gateway.
    pub async fn close(&self) {
        self.jobs.put_back().await;
        if let Some(history) = &self.history {
            history.flush().await;
        }
    }

    /// Pictures that are being asked for.
    pub fn running(&self) -> usize {
        self.max_requests - self.requests.available_permits()
    }

    /// A place to read a large body.
    pub fn admit_upload(&self) -> Result<OwnedSemaphorePermit, Fault> {
        Arc::clone(&self.uploads).try_acquire_owned().map_err(|_| {
            full("uploads", format!("{MAX_UPLOADS} images are being uploaded; try again later"))
        })
    }
}

/// There is no room for more of `what`.
fn full(what: &'static str, message: String) -> Fault {
    metrics::counter!(GATEWAY_REJECTIONS.name, "what" => what).increment(1);
    Fault::Busy { message, retry_after: RETRY_FULL }
}
