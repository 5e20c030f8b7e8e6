//! The denoising loop: from noise to latents, for pictures of one shape on one grid of sigmas.
//!
//! All of a batch go through the transformer in one packed forward, and with guidance their negative
//! prompts too, unless these have weights of their own. Each keeps its own solver and
//! latents, so one that leaves, or a forward that is too large for the device, disturbs no other.

use std::{
    error::Error,
    ops::ControlFlow,
    time::{Duration, Instant},
};

use candle_core::{Device, Tensor};
use llm_dit_engine::image::{GenerateError, Member, Step, X0Prediction};
use llm_dit_proto as proto;

use crate::{
    denoiser::Denoiser,
    error::DrawError,
    guidance,
    schedule::{Solver, x0},
    source_latents::Kept,
};

/// What a picture's first step gets.
pub(super) struct Start {
    pub latents: Vec<f32>,
    /// What is put back after every step.
    pub kept: Option<Kept>,
}

/// A picture under way. Latents stay f32 on the host; only the model's input is rounded.
pub(super) struct Trajectory<'a> {
    pub member: Member<'a>,
    pub latents: Vec<f32>,
    kept: Option<Kept>,
    solver: Solver,
    /// The times `1 - sigma` of the whole trajectory's steps.
    times: Vec<f32>,
    /// Forward passes that are done.
    index: u32,
}

/// The denoiser's inputs for a batch besides its latents.
struct Conditions<'m, D: Denoiser> {
    positive: D::Conditioning,
    /// With guidance only.
    guided: Option<Guided<'m, D>>,
}

/// How the negative captions' velocities are computed.
enum Guided<'m, D: Denoiser> {
    /// In one forward: all positive captions, then all negative ones.
    Together(D::Conditioning),
    /// The negative ones by a model of their own.
    Apart(&'m D, D::Conditioning),
}

impl From<Vec<f32>> for Start {
    fn from(latents: Vec<f32>) -> Self {
        Self { latents, kept: None }
    }
}

impl<'a> Trajectory<'a> {
    /// Starts at the first of `sigmas`; the last one is where the trajectory ends.
    pub fn new(member: Member<'a>, start: Start, sigmas: Vec<f64>) -> Self {
        // The last sigma is where the trajectory ends.
        let asked = &sigmas[..sigmas.len().saturating_sub(1)];
        let times = asked.iter().map(|sigma| (1.0 - sigma) as f32).collect();
        let solver = Solver::new(member.job.params.scheduler, sigmas);
        let Start { latents, kept } = start;
        Self { member, latents, kept, solver, times, index: 0 }
    }

    /// Forward passes of the whole trajectory.
    pub fn total(&self) -> u32 {
        let (params, first) = (&self.member.job.params, self.member.job.first_step());
        params.scheduler.forwards(params.steps - first)
    }

    /// Moves by what the model said, and tells of it.
    fn advance(&mut self, velocity: &[f32], sigma: f64, started: Instant) -> ControlFlow<()> {
        self.index += 1;
        let preview = self.member.job.preview;
        let prediction = preview
            .is_some_and(|preview| preview.is_due(self.index))
            .then(|| x0(&self.latents, velocity, sigma));
        // Not between the halves of a step, whose method counts on what it left.
        if let Some(sigma) = self.solver.advance(&mut self.latents, velocity)
            && let Some(kept) = &self.kept
        {
            kept.restore(&mut self.latents, sigma);
        }
        let step = Step { index: self.index, total: self.total(), duration: started.elapsed() };
        self.member.sink.step(step)?;
        if let Some(clean) = prediction {
            self.member.sink.guess(X0Prediction { step, clean });
        }
        ControlFlow::Continue(())
    }
}

/// Whether the caller is still there; tells nothing else.
pub(super) fn wanted(member: &mut Member<'_>, total: u32) -> bool {
    member.sink.step(Step { index: 0, total, duration: Duration::ZERO }).is_continue()
}

/// Denoises all to the end; returns those that arrived.
pub(super) fn denoise<'a>(
    model: &impl Denoiser,
    shape: [usize; 3],
    mut trajectories: Vec<Trajectory<'a>>,
) -> Vec<Trajectory<'a>> {
    let denoised = denoise_together(model, shape, &mut trajectories);
    if denoised.is_err() {
        // The memory may be what was missing, and what was recorded is in doubt.
        model.reset();
    }
    match denoised {
        Ok(()) => trajectories,
        Err(error) if trajectories.len() > 1 => {
            // More than fits in the device's memory, most likely; one alone may fit. No latents
            // have moved, so each goes on from where it is.
            let jobs = trajectories.len();
            tracing::warn!(%error, jobs, "a batch failed; continuing its images one by one");
            trajectories
                .into_iter()
                .flat_map(|trajectory| denoise(model, shape, vec![trajectory]))
                .collect()
        }
        Err(error) => {
            fail(trajectories.into_iter().map(|trajectory| trajectory.member), &error);
            Vec::new()
        }
    }
}

/// The backend failed all of these.
pub(super) fn fail<'a>(members: impl Iterator<Item = Member<'a>>, error: &(dyn Error + 'static)) {
    for member in members {
        member.finish(Err(DrawError::backend(error).into()));
    }
}

fn denoise_together<D: Denoiser>(
    model: &D,
    shape: [usize; 3],
    trajectories: &mut Vec<Trajectory<'_>>,
) -> candle_core::Result<()> {
    let mut conditions: Option<Conditions<'_, D>> = None;
    // They have the same grid, so the first speaks for all.
    while let Some(sigma) = trajectories.first().and_then(|trajectory| trajectory.solver.sigma()) {
        let started = Instant::now();
        let mut ready = match conditions.take() {
            Some(ready) => ready,
            None => Conditions::new(model, shape, trajectories)?,
        };
        let velocities = ready.velocities(model, shape, trajectories, (1.0 - sigma) as f32)?;
        let count = trajectories.len();
        let steps = std::mem::take(trajectories).into_iter().zip(velocities);
        for (mut trajectory, velocity) in steps {
            match trajectory.advance(&velocity, sigma, started) {
                ControlFlow::Continue(()) => trajectories.push(trajectory),
                ControlFlow::Break(()) => trajectory.member.finish(Err(GenerateError::Cancelled)),
            }
        }
        // Without the jobs that were cancelled there are other captions to pack.
        conditions = (trajectories.len() == count).then_some(ready);
    }
    Ok(())
}

impl<'m, D: Denoiser> Conditions<'m, D> {
    fn new(
        model: &'m D,
        shape: [usize; 3],
        trajectories: &[Trajectory<'_>],
    ) -> candle_core::Result<Self> {
        let jobs = || trajectories.iter().map(|trajectory| trajectory.member.job);
        let positive: Vec<&proto::Tensor> = jobs().map(|job| &job.embeddings).collect();
        let guided = jobs().filter(|job| job.params.uses_guidance());
        let negative: Vec<&proto::Tensor> =
            guided.filter_map(|job| job.negative_embeddings.as_ref()).collect();
        let times =
            trajectories.first().map(|trajectory| &trajectory.times[..]).unwrap_or_default();
        let condition = |model: &D, captions: &[&proto::Tensor]| {
            let mut conditioning = condition(model, captions, shape)?;
            model.prepare(&mut conditioning, times)?;
            Ok::<_, candle_core::Error>(conditioning)
        };
        // Members of a batch all have guidance, or none has.
        let guided = match model.negative() {
            _ if negative.len() != positive.len() => None,
            Some(own) => Some(Guided::Apart(own, condition(own, &negative)?)),
            None => Some(Guided::Together(condition(model, &[&positive[..], &negative].concat())?)),
        };
        Ok(Self { positive: condition(model, &positive)?, guided })
    }

    /// Where each goes from here.
    fn velocities(
        &mut self,
        model: &D,
        shape: [usize; 3],
        trajectories: &[Trajectory<'_>],
        time: f32,
    ) -> candle_core::Result<Vec<Vec<f32>>> {
        let latents = trajectories
            .iter()
            .map(|trajectory| Tensor::from_slice(&trajectory.latents, &shape[..], model.device()))
            .collect::<candle_core::Result<Vec<_>>>()?;
        // In the same steps, too.
        let applies = trajectories.iter().all(|w| guidance::applies(&w.member.job.params, time));
        let (positive, negative) = match self.guided.as_mut().filter(|_| applies) {
            None => return velocities(model, &latents, time, &mut self.positive),
            Some(Guided::Together(both)) => {
                let latents = [&latents[..], &latents[..]].concat();
                let mut outputs = velocities(model, &latents, time, both)?;
                let negative = outputs.split_off(trajectories.len());
                (outputs, negative)
            }
            Some(Guided::Apart(own, conditioning)) => (
                velocities(model, &latents, time, &mut self.positive)?,
                velocities(*own, &latents, time, conditioning)?,
            ),
        };
        let pairs = positive.iter().zip(&negative).zip(trajectories);
        let combine = |((p, n), w): ((&Vec<f32>, &Vec<f32>), &Trajectory<'_>)| {
            guidance::combine(&w.member.job.params, p, n)
        };
        Ok(pairs.map(combine).collect())
    }
}

fn condition<D: Denoiser>(
    model: &D,
    captions: &[&proto::Tensor],
    shape: [usize; 3],
) -> candle_core::Result<D::Conditioning> {
    let captions = captions
        .iter()
        .map(|c| Tensor::from_vec(c.to_f32(), c.shape(), &Device::Cpu))
        .collect::<candle_core::Result<Vec<_>>>()?;
    model.condition(&captions, &vec![(shape[1], shape[2]); captions.len()])
}

/// Latents at one time to the velocity of each, on the host.
fn velocities<D: Denoiser>(
    model: &D,
    latents: &[Tensor],
    time: f32,
    conditioning: &mut D::Conditioning,
) -> candle_core::Result<Vec<Vec<f32>>> {
    let outputs = model.velocity(latents, &vec![time; latents.len()], conditioning)?;
    if let [output] = &outputs[..] {
        return Ok(vec![output.flatten_all()?.to_vec1()?]);
    }
    // One download for all, since the device stands still meanwhile.
    Tensor::stack(&outputs, 0)?.flatten_from(1)?.to_vec2()
}

#[cfg(test)]
mod tests;
