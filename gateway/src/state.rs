//! The parts of a running gateway, which all requests share.

use std::{path::PathBuf, sync::Arc};

use llm_dit_fault::Fault;
use llm_dit_memory::MemoryBudget;
use llm_dit_templates::Library;

use crate::{
    admission::Admissions,
    backends::Backends,
    deadlines::Deadlines,
    encode::Cache,
    error::Error,
    guard::{Guard, Sessions},
    history::{EmbeddedHistory, EmbeddedJobStore, History},
    jobs::{InMemoryJobStore, Jobs, store::JobStore},
    maker::Maker,
    options::{GatewayOptions, ModelAlias},
    shared::Shared,
};

#[derive(Debug)]
pub(crate) struct AppState {
    pub backends: Arc<Backends>,
    pub cache: Arc<Cache>,
    pub templates: Arc<Library>,
    pub maker: Arc<Maker>,
    /// `None`: no pictures are kept.
    pub history: Option<Arc<dyn History>>,
    /// What is set while the gateway runs is kept here; `None`: a restart forgets it.
    pub settings: Option<Arc<EmbeddedHistory>>,
    /// `None`: jobs and pictures are this gateway's own.
    pub queue: Option<Shared>,
    pub jobs: Arc<Jobs>,
    /// `None`: there is no place for files.
    pub embeddings_dir: Option<PathBuf>,
    pub guard: Arc<Guard>,
    /// Other names of models for clients of OpenAI's API.
    pub aliases: Vec<ModelAlias>,
    /// What a request gets at most.
    pub patience: Deadlines,
    pub admissions: Arc<Admissions>,
    /// For the bodies and images of requests.
    pub memory: MemoryBudget,
}

impl AppState {
    /// Opens the gateway's state, with the jobs and settings that an earlier gateway left. Must be
    /// called inside a tokio runtime.
    ///
    /// # Errors
    ///
    /// [`Error`] if the stored jobs, the templates or a service's URL cannot be used.
    pub async fn open(
        options: &GatewayOptions,
        history: Option<Arc<EmbeddedHistory>>,
        guard: Arc<Guard>,
    ) -> Result<Arc<Self>, Error> {
        let keep = &options.keep;
        let failed = |fault: Fault| Error::History(format!("cannot load the stored jobs: {fault}"));
        let queue = match &keep.queue {
            Some(queue) => Some(Shared::open(queue, keep).await?),
            None => None,
        };
        let store = match (&queue, &history) {
            (Some(queue), _) => {
                let options = queue.options();
                JobStore::shared(queue.clone(), options.role, options.claims)
            }
            (None, Some(history)) => {
                let store = EmbeddedJobStore::open(Arc::clone(history)).await;
                JobStore::of(store.map_err(failed)?)
            }
            (None, None) => JobStore::of(InMemoryJobStore::default()),
        };
        let backends = Arc::new(Backends::new(options)?);
        if let Some(history) = &history
            && let Some(active) = history.loras().await.map_err(failed)?
        {
            backends.loras.replace(active);
        }
        if let Some(history) = &history
            && guard.keys.is_some()
        {
            restore_sessions(history, &guard.sessions).await.map_err(failed)?;
        }
        let cache = Arc::new(Cache::new(keep.embedding_cache_bytes));
        let templates = Arc::new(Library::load(keep.templates_dir.as_deref())?);
        let memory = options.memory.clone();
        let maker = Maker::new(Arc::clone(&backends), Arc::clone(&cache), memory.clone());
        let maker = Arc::new(maker);
        let admissions = Arc::new(Admissions::new(keep.max_requests));
        let jobs = Jobs::new(
            store,
            keep.jobs,
            Arc::clone(&maker),
            Arc::clone(&templates),
            Arc::clone(&admissions),
        );
        jobs.start().await.map_err(failed)?;
        if let Some(queue) = &queue {
            queue.keep_sweeping();
        }
        let settings = history;
        let history: Option<Arc<dyn History>> = match (&queue, &settings) {
            (Some(queue), _) => Some(Arc::new(queue.clone())),
            (None, Some(history)) => Some(Arc::<EmbeddedHistory>::clone(history)),
            (None, None) => None,
        };
        Ok(Arc::new(Self {
            backends,
            cache,
            templates,
            maker,
            history,
            settings,
            queue,
            jobs: Arc::new(jobs),
            embeddings_dir: keep
                .embeddings_dir
                .clone()
                .or_else(|| data_folder().map(|folder| folder.join("embeddings"))),
            guard,
            aliases: options.model_aliases.clone(),
            patience: Deadlines::new(options.access.request_timeout),
            admissions,
            memory,
        }))
    }

    /// Stores what there is to store; what is not done is left to the next gateway.
    pub async fn close(&self) {
        self.jobs.requeue_unfinished().await;
        if let Some(history) = &self.history {
            history.flush().await;
        }
    }
}

/// Where the gateways of this user keep what was given no other place.
pub(crate) fn data_folder() -> Option<PathBuf> {
    dirs::data_dir().map(|folder| folder.join("llm-dit"))
}

/// Sessions outlast a restart, and so do their ends.
async fn restore_sessions(history: &EmbeddedHistory, sessions: &Sessions) -> Result<(), Fault> {
    if let Some(stored) = history.sessions().await?
        && sessions.restore(&stored)
    {
        return Ok(());
    }
    if let Err(fault) = history.keep_sessions(sessions.to_json()).await {
        tracing::warn!(%fault, "sessions of browsers end with this run of the gateway");
    }
    Ok(())
}
