//! Previews of a running job, made beside it.
//!
//! Both ends keep only the newest: an engine faster than the encoder, or a reader slower than
//! either, means fewer previews and nothing that waits or piles up.

use std::sync::Arc;

use tokio::{
    sync::watch,
    task::{self, JoinHandle},
};

use crate::{
    engine::{GenerateJob, LatentMap, ModelInfo, PreviewOptions, X0Prediction},
    preview::{self, Preview},
};

/// Where the engine's thread leaves its guesses. Previews end when it is dropped.
pub(super) struct X0Predictions(watch::Sender<Option<Arc<X0Prediction>>>);

/// The newest preview, for the reader.
pub(super) type Newest = watch::Receiver<Option<Preview>>;

/// The task between the two.
pub(super) struct Previews {
    map: LatentMap,
    shape: [usize; 3],
    options: PreviewOptions,
    guesses: watch::Receiver<Option<Arc<X0Prediction>>>,
    newest: watch::Sender<Option<Preview>>,
}

impl X0Predictions {
    /// Takes the place of one that was not looked at yet.
    pub fn leave(&self, guess: X0Prediction) {
        self.0.send_replace(Some(Arc::new(guess)));
    }
}

impl Previews {
    /// `None` when the job asks for none. The task ends, with the last preview made, when the
    /// guesses do.
    pub fn start(
        info: &ModelInfo,
        job: &GenerateJob,
    ) -> Option<(X0Predictions, (JoinHandle<()>, Newest))> {
        let (map, options) = (info.preview.clone()?, job.preview?);
        let (guess, guesses) = watch::channel(None);
        let (newest, previews) = watch::channel(None);
        let shape = info.latent_shape(&job.params);
        let task = Self { map, shape, options, guesses, newest };
        Some((X0Predictions(guess), (tokio::spawn(task.run()), previews)))
    }

    async fn run(mut self) {
        while self.guesses.changed().await.is_ok() && !self.newest.is_closed() {
            let Some(guess) = self.guesses.borrow_and_update().clone() else {
                continue;
            };
            let (map, shape, options) = (self.map.clone(), self.shape, self.options);
            let work = move || preview::encode(&map, shape, &guess, options);
            match task::spawn_blocking(work).await {
                Ok(Some(preview)) => {
                    self.newest.send_replace(Some(preview));
                }
                Ok(None) => tracing::error!("a guess does not fit the model's own preview"),
                Err(error) => tracing::error!(%error, "making a preview failed"),
            }
        }
    }
}
