//! The image generator as the rest of the program sees it: cheap to clone, asynchronous,
//! cancellable.
//!
//! The command in one process and the gRPC service both use it, so a picture takes the same way
//! whichever door the request came through.

mod admission;
mod events;
mod loras;
mod meters;
mod pending;
mod previews;
mod probe;

use std::{io, sync::Arc, time::Duration};

use llm_dit_engine::{EngineHealth, Worker, stall_limit};
use llm_dit_fault::Fault;
use llm_dit_memory::Reservation;
use llm_dit_params::{Scheduler, choose_model};
use llm_dit_proto::v1;
use llm_dit_serving::{Grace, Remote};
use llm_dit_telemetry::metrics::{Observer, stage};
use tokio::{
    sync::mpsc,
    task::{self, JoinHandle},
    time::Instant,
};
use tokio_util::sync::CancellationToken;
use tracing::Instrument as _;

pub use self::{
    admission::Admission,
    events::{Event, Events, Image, Timings},
};
use self::{
    admission::Shares,
    loras::Loras,
    pending::{Done, Pending, Progress},
    previews::Previews,
};
use crate::{
    engine::{
        self, BatchLimit, Engines, GenerateError, GenerateJob, Generated, ImageGenerator, ModelInfo,
    },
    picture,
    source::{self, Paste},
};

/// Bounds of one service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ServiceLimits {
    /// Pictures that wait while one is made.
    pub queue_capacity: usize,
    /// How many of them are made together; `None`: what suits the device.
    pub batch: Option<BatchLimit>,
    /// A client that is sending may pause for this long.
    pub message_timeout: Duration,
    pub grace: Grace,
}

impl Default for ServiceLimits {
    fn default() -> Self {
        let (message_timeout, grace) = (Duration::from_secs(30), Grace::default());
        Self { queue_capacity: 16, batch: None, message_timeout, grace }
    }
}

/// A loaded generator on its thread.
#[derive(Clone, Debug)]
pub struct DiffusionHandle {
    worker: Worker<Engines, Pending>,
    shared: Arc<Shared>,
    shares: Shares,
    loras: Loras,
}

#[derive(Debug)]
struct Shared {
    /// The default model.
    info: ModelInfo,
    others: Vec<ModelInfo>,
    limits: ServiceLimits,
    batch: BatchLimit,
    encoder: Option<Remote>,
    _observer: Observer,
}

impl DiffusionHandle {
    /// Moves the engine to a thread of its own. `encoder` is asked for the embeddings of requests
    /// that bring a bare prompt.
    pub fn spawn(
        engine: Box<dyn ImageGenerator>,
        limits: ServiceLimits,
        encoder: Option<Remote>,
    ) -> io::Result<Self> {
        Self::spawn_all(Engines::single(engine), limits, encoder)
    }

    /// As [`DiffusionHandle::spawn`], with several models for requests to name.
    pub fn spawn_all(
        mut engines: Engines,
        limits: ServiceLimits,
        encoder: Option<Remote>,
    ) -> io::Result<Self> {
        let mut others = engines.infos();
        let info = others.remove(0);
        let inspect = engines.lora_inspector();
        let engine = engines.default_model();
        let loras = Loras::new(engine.loras(), inspect);
        let default_loras = loras.clone();
        let observer =
            meters::observe(&info, engine.memory(), move || default_loras.default_set().len());
        let worker = Worker::spawn("image generator", limits.queue_capacity, engines)?;
        let batch = limits.batch.unwrap_or_else(|| BatchLimit::of_device(info.device));
        let shared = Shared { info, others, limits, batch, encoder, _observer: observer };
        Ok(Self { worker, shared: Arc::new(shared), shares: Shares::default(), loras })
    }

    /// The default model.
    pub fn info(&self) -> &ModelInfo {
        &self.shared.info
    }

    /// The model that a request names, or the default one.
    ///
    /// # Errors
    /// [`Fault::NotFound`] when there is no model of this name.
    pub fn info_of(&self, wanted: Option<&str>) -> Result<&ModelInfo, Fault> {
        let Shared { info, others, .. } = &*self.shared;
        let names: Vec<&str> = others.iter().map(|other| &*other.model).collect();
        let name = choose_model(wanted, &info.model, &names)?;
        Ok(others.iter().find(|other| other.model == name).unwrap_or(info))
    }

    pub fn limits(&self) -> &ServiceLimits {
        &self.shared.limits
    }

    /// How the engine is.
    pub fn health(&self) -> &EngineHealth {
        self.worker.health()
    }

    /// Tries the engine now and then while it is unhealthy, and watches its progress. Must be called
    /// inside a tokio runtime.
    pub(crate) fn look_after_engine(&self) {
        let loras = self.loras.clone();
        self.worker.probe_while_unhealthy(move |engines| {
            probe::works(engines.default_model(), &loras.default_set())
        });
        self.health().watch_progress(stall_limit(self.info().device.is_cpu()));
    }

    pub fn encoder(&self) -> Option<&Remote> {
        self.shared.encoder.as_ref()
    }

    /// [`DiffusionHandle::info`] as the wire has it.
    pub fn describe(&self) -> v1::DiffusionDescription {
        let Shared { info, others, encoder, .. } = &*self.shared;
        v1::DiffusionDescription {
            has_encoder: encoder.is_some(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            schedulers: Scheduler::ALL.iter().map(Scheduler::to_string).collect(),
            loras: self.default_loras().iter().map(v1::ActiveLora::from).collect(),
            others: others.iter().map(describe).collect(),
            ..describe(info)
        }
    }

    /// Checks the job, queues it, and returns the events to come. Dropping them stops the work
    /// before its next step, as `cancel` does.
    pub async fn generate(
        &self,
        job: GenerateJob,
        cancel: &CancellationToken,
    ) -> Result<Events, Fault> {
        let admission = self.admit(self.begin(&job.params)?)?;
        self.generate_admitted(job, None, admission, cancel).await
    }

    /// As [`DiffusionHandle::generate`], for a request that was let in before. `paste`: where the
    /// result goes.
    pub async fn generate_admitted(
        &self,
        job: GenerateJob,
        paste: Option<Paste>,
        Admission { place, memory }: Admission,
        cancel: &CancellationToken,
    ) -> Result<Events, Fault> {
        let info = self.info_of(job.params.model.as_deref())?.clone();
        // Looks at every value, which for long captions is too much for an async thread.
        let check = move || info.check(job).map(|job| (info, job));
        let (info, job) = task::spawn_blocking(check)
            .await
            .map_err(|error| {
                tracing::error!(%error, "validating a job failed");
                Fault::Internal("validating the request failed".to_owned())
            })?
            .map_err(fault)?;

        let cancel = cancel.child_token();
        // Room for everything the engine thread can say, so that it never finds this full.
        let (sender, receiver) = mpsc::channel(job.params.forwards() as usize + 8);
        let (guesses, previews) = Previews::start(&info, &job).unzip();
        let (previewing, previews) = previews.unzip();
        let progress = Progress::new(cancel.clone(), sender.clone(), guesses);
        let pending = Pending::new(job, progress, self.shared.batch, self.health().clone());
        let ticket = self.worker.submit_reserved(&cancel, pending, place)?;
        let accepted = Event::Accepted { queue_position: ticket.position() };
        let places = ticket.places();
        let finish = async move {
            let end = match ticket.wait().await {
                Ok(done) => finish(done, paste, memory, previewing, &sender).await,
                Err(fault) => Err(fault),
            };
            meters::count(&end);
            if let Err(fault) = end {
                // Nobody is left to hear of it when this fails, here and below.
                let _ = sender.send(Err(fault)).await;
            }
        };
        tokio::spawn(finish.in_current_span());
        Ok(Events::new(accepted, places, previews, receiver, cancel.drop_guard()))
    }
}

/// What the wire says of one model.
fn describe(info: &ModelInfo) -> v1::DiffusionDescription {
    v1::DiffusionDescription {
        model: info.model.clone(),
        description: info.about.description.clone(),
        examples: info.about.examples.clone(),
        cap_feat_dim: info.cap_feat_dim as u32,
        latent_channels: info.latent_channels as u32,
        vae_scale_factor: info.vae_scale_factor as u32,
        defaults: Some(v1::GenerateParams {
            width: Some(info.defaults.width),
            height: Some(info.defaults.height),
            steps: Some(info.defaults.steps),
            guidance_scale: Some(info.defaults.guidance_scale),
            shift: Some(info.defaults.shift),
            scheduler: Some(info.defaults.scheduler.to_string()),
            ..Default::default()
        }),
        side_multiple: info.limits.side_multiple,
        min_side: info.limits.min_side,
        max_side: info.limits.max_side,
        max_pixels: info.limits.max_pixels,
        max_steps: info.limits.max_steps,
        max_caption_tokens: info.max_caption_tokens as u32,
        device: info.device.to_string(),
        dtype: info.dtype.to_wire(),
        max_preview_side: if info.preview.is_some() { engine::MAX_SIDE } else { 0 },
        ..Default::default()
    }
}

/// From pixels to the last event, while the engine is already at the next job.
async fn finish(
    done: Done,
    paste: Option<Paste>,
    memory: Reservation,
    previewing: Option<JoinHandle<()>>,
    sender: &mpsc::Sender<Result<Event, Fault>>,
) -> Result<(), Fault> {
    let recipe = done.recipe;
    let Generated { picture, latents, denoise, decode } = done.result.map_err(fault)?;
    let begun = Instant::now();
    let write = task::spawn_blocking(move || {
        let picture = match paste {
            Some(paste) => source::paste(paste, picture).map_err(|error| {
                tracing::error!(%error, "pasting an image failed");
                Fault::Internal("pasting the image failed".to_owned())
            })?,
            None => picture,
        };
        let png = picture::encode_png(&picture, &recipe)?;
        Ok::<_, Fault>((picture.width, picture.height, png))
    });
    let (width, height, png) =
        write.instrument(tracing::info_span!("image")).await.map_err(|error| {
            tracing::error!(%error, "encoding the PNG failed");
            Fault::Internal("encoding the PNG failed".to_owned())
        })??;
    let timings = Timings { queue: done.queued, denoise, decode, image: begun.elapsed() };
    stage("denoise", denoise);
    stage("decode", decode);
    stage("image", timings.image);
    tracing::info!(
        width,
        height,
        batch = done.batch,
        queue = timings.queue.as_secs_f64(),
        denoise = denoise.as_secs_f64(),
        decode = decode.as_secs_f64(),
        "generated an image"
    );
    // Nothing is shown of a picture once it is there.
    if let Some(previewing) = previewing {
        let _ = previewing.await;
    }
    if let Some(latents) = latents {
        let _ = sender.send(Ok(Event::Latents(latents))).await;
    }
    // A client that reads slowly still holds the image.
    let png = memory.hold(png);
    let _ = sender.send(Ok(Event::Image(Image { width, height, png }))).await;
    let _ = sender.send(Ok(Event::Finished(timings))).await;
    Ok(())
}

/// What an engine's error means for the caller; internal causes end in the log.
pub(crate) fn fault(error: GenerateError) -> Fault {
    match error {
        GenerateError::BadJob(message) => Fault::BadRequest(message),
        GenerateError::Loras(error) => loras::fault(error),
        GenerateError::NotFinite => Fault::Unprocessable(error.to_string()),
        GenerateError::Cancelled => Fault::Cancelled(error.to_string()),
        GenerateError::OutOfMemory | GenerateError::TooLarge { .. } => {
            Fault::OutOfMemory(error.to_string())
        }
        GenerateError::Backend(cause) => {
            tracing::error!(cause, "generating failed");
            Fault::Internal("the image generator failed; its log has the cause".to_owned())
        }
    }
}
