//! A picture that waits for the engine, alone or to be made with others.

use std::ops::ControlFlow;

use llm_dit_engine::{Answer, Batch, EngineHealth};
use llm_dit_fault::Fault;
use llm_dit_recipe::Recipe;
use llm_dit_telemetry::metrics::{STEP_SECONDS, STEPS};
use metrics::{Counter, Histogram};
use tokio::{sync::mpsc, time::Instant};
use tokio_util::sync::CancellationToken;
use tracing::Span;

use super::{Event, previews::X0Predictions};
use crate::{
    engine::{
        BatchKey, BatchLimit, CheckedJob, Engines, GenerateError, Generated, ImageGenerator,
        LoraChoice, Member, SetLorasError, Step, StepSink, X0Prediction,
    },
    picture,
};

/// A job in the queue.
pub(super) struct Pending {
    job: CheckedJob,
    key: BatchKey,
    progress: Progress,
    limit: BatchLimit,
    queued: Instant,
    health: EngineHealth,
}

/// What the engine thread hands back.
pub(super) struct Done {
    pub queued: std::time::Duration,
    /// Pictures that were made together with this one, itself included.
    pub batch: usize,
    pub recipe: Recipe,
    pub result: Result<Generated, GenerateError>,
}

/// The engine's view of the caller: never waits, and says stop once the caller has left.
pub(super) struct Progress {
    cancel: CancellationToken,
    sender: mpsc::Sender<Result<Event, Fault>>,
    guesses: Option<X0Predictions>,
    span: Span,
    /// Closed with the next one, and the last one with the sink.
    stage: Span,
    steps: Counter,
    seconds: Histogram,
    /// Hears of every step, once the turn has come.
    health: Option<EngineHealth>,
}

impl Pending {
    pub fn new(
        job: CheckedJob,
        progress: Progress,
        limit: BatchLimit,
        health: EngineHealth,
    ) -> Self {
        let key = BatchKey::of(&job.params, job.start(), &job.loras);
        Self { job, key, progress, limit, queued: Instant::now(), health }
    }
}

impl Batch<Engines> for Pending {
    type Output = Done;

    fn compatible(&self, those: &[&Self]) -> bool {
        self.limit.allows(&self.key, those.len() + 1)
            && those.iter().all(|that| that.key == self.key)
    }

    fn run(engines: &mut Engines, together: Vec<(Self, Answer<Done>)>) {
        // The batch key holds model and LoRAs, so they are the same for all.
        let Some((first, _)) = together.first() else { return };
        // It was found when the job was checked, and none ever goes. Dropped answers say so.
        let Some(engine) = engines.turn(first.job.params.model.as_deref()) else { return };
        if let Err(error) = fuse(engine, &first.job.loras) {
            return refuse(together, &error);
        }
        let (info, batch) = (engine.info(), together.len());
        let (jobs, callers): (Vec<_>, Vec<_>) = together
            .into_iter()
            .map(|(Self { job, mut progress, queued, health, .. }, answer)| {
                progress.begin(health.clone());
                (job, (progress, queued.elapsed(), health, answer))
            })
            .unzip();
        let members = jobs.iter().zip(callers).map(|(job, (progress, queued, health, answer))| {
            let recipe = picture::recipe(&info, job);
            let done = move |result: Result<Generated, GenerateError>| {
                match &result {
                    Ok(_) => health.worked(),
                    Err(GenerateError::Backend(_)) => health.failed(),
                    Err(GenerateError::NotFinite) => health.doubt(),
                    // These say nothing about the engine.
                    Err(
                        GenerateError::OutOfMemory
                        | GenerateError::TooLarge { .. }
                        | GenerateError::BadJob(_)
                        | GenerateError::Loras(_)
                        | GenerateError::Cancelled,
                    ) => {}
                }
                answer.send(Done { queued, batch, recipe, result });
            };
            Member::new(job, progress, done)
        });
        engine.generate_batch(members.collect());
    }
}

/// Changes the weights only if they are not those of these LoRAs.
pub(super) fn fuse(
    engine: &mut dyn ImageGenerator,
    loras: &[LoraChoice],
) -> Result<(), SetLorasError> {
    if engine.loras().iter().map(|fused| &fused.choice).eq(loras) {
        return Ok(());
    }
    tracing::debug!(loras = loras.len(), "fusing the LoRAs of the next images");
    engine.set_loras(loras).map(drop)
}

/// The LoRAs cannot be used, which is known only now. The weights are as they were before.
fn refuse(together: Vec<(Pending, Answer<Done>)>, error: &SetLorasError) {
    let batch = together.len();
    for (Pending { queued, health, .. }, answer) in together {
        if let SetLorasError::Backend(_) = error {
            health.failed();
        }
        let result = Err(GenerateError::Loras(error.clone()));
        answer.send(Done { queued: queued.elapsed(), batch, recipe: Recipe::default(), result });
    }
}

impl Progress {
    pub fn new(
        cancel: CancellationToken,
        sender: mpsc::Sender<Result<Event, Fault>>,
        guesses: Option<X0Predictions>,
    ) -> Self {
        Self {
            cancel,
            sender,
            guesses,
            span: Span::current(),
            stage: Span::none(),
            steps: metrics::counter!(STEPS.name),
            seconds: metrics::histogram!(STEP_SECONDS.name),
            health: None,
        }
    }

    /// Its turn has come. Each picture of a batch has spans of its own, in its own trace.
    fn begin(&mut self, health: EngineHealth) {
        self.health = Some(health);
        self.stage = self.span.in_scope(|| tracing::info_span!("denoise"));
    }
}

impl StepSink for Progress {
    fn step(&mut self, step: Step) -> ControlFlow<()> {
        if let Some(health) = &self.health {
            health.progressed();
        }
        if self.cancel.is_cancelled() {
            return ControlFlow::Break(());
        }
        // Index 0 only asks whether to go on.
        if step.index > 0 {
            let seconds = step.duration.as_secs_f64();
            self.span.in_scope(|| tracing::debug!(step.index, step.total, seconds, "step"));
            self.steps.increment(1);
            self.seconds.record(step.duration);
            let _ = self.sender.try_send(Ok(Event::Step(step)));
            if step.index == step.total {
                self.stage = self.span.in_scope(|| tracing::info_span!("decode"));
            }
        }
        ControlFlow::Continue(())
    }

    fn guess(&mut self, guess: X0Prediction) {
        if let Some(guesses) = &self.guesses {
            guesses.leave(guess);
        }
    }
}
