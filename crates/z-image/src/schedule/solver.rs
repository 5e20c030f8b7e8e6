//! The walk of one picture along its grid.

use std::mem;

use llm_dit_params::Scheduler;

use super::{dpm_solver, flow, terms, unipc};

/// Says where the model is to be asked next, and moves the latents by its answer.
///
/// ```
/// # use llm_dit_z_image::schedule::{Solver, sigmas};
/// # use llm_dit_params::Scheduler;
/// # let mut latents = vec![0.5f32; 4];
/// # let model = |latents: &[f32], _sigma: f64| latents.to_vec();
/// let mut solver = Solver::new(Scheduler::UniPc, sigmas(Scheduler::UniPc, 8, 3.0));
/// while let Some(sigma) = solver.sigma() {
///     let velocity = model(&latents, sigma);
///     solver.advance(&mut latents, &velocity);
/// }
/// ```
#[derive(Clone, Debug)]
pub struct Solver {
    sigmas: Vec<f64>,
    /// Steps that are done.
    done: usize,
    method: Method,
}

/// A method and what it remembers.
#[derive(Clone, Debug)]
enum Method {
    Euler,
    /// Start and velocity of the step whose second forward is due.
    Heun(Option<(Vec<f32>, Vec<f32>)>),
    /// The last two clean pictures, the newest last.
    DpmSolver(Vec<Vec<f32>>),
    UniPc {
        clean: Vec<Vec<f32>>,
        /// Latents that the last prediction went out from, and its order.
        last: Option<(Vec<f32>, usize)>,
    },
}

impl Solver {
    /// `sigmas` is a grid of [`super::sigmas`] for the same scheduler, or its end where the walk
    /// begins on the way.
    pub fn new(scheduler: Scheduler, sigmas: Vec<f64>) -> Self {
        let method = match scheduler {
            Scheduler::FlowEuler => Method::Euler,
            Scheduler::FlowHeun => Method::Heun(None),
            Scheduler::DpmSolver => Method::DpmSolver(Vec::new()),
            Scheduler::UniPc => Method::UniPc { clean: Vec::new(), last: None },
        };
        Self { sigmas, done: 0, method }
    }

    /// Where the model is to be asked; `None` once the latents are clean.
    pub fn sigma(&self) -> Option<f64> {
        let (sigma, next) = self.step()?;
        Some(if matches!(self.method, Method::Heun(Some(_))) { next } else { sigma })
    }

    /// Moves the latents by the velocity that the model sees at [`Solver::sigma`]. After the last
    /// step it does nothing.
    pub fn advance(&mut self, latents: &mut Vec<f32>, velocity: &[f32]) {
        let Some((sigma, next)) = self.step() else {
            return;
        };
        let (sigmas, i) = (&self.sigmas, self.done);
        match &mut self.method {
            Method::Euler => flow::euler(latents, velocity, sigma, next),
            Method::Heun(half) => match half.take() {
                Some((start, first)) => {
                    *latents = flow::heun(&start, &first, velocity, sigma, next);
                }
                None => {
                    let start = latents.clone();
                    flow::euler(latents, velocity, sigma, next);
                    if next > 0.0 {
                        *half = Some((start, velocity.to_vec()));
                        return;
                    }
                }
            },
            Method::DpmSolver(clean) => {
                keep_two(clean, terms::clean(latents, velocity, sigma));
                *latents = dpm_solver::step(latents, clean, sigmas, i);
            }
            Method::UniPc { clean, last } => {
                let arrived = terms::clean(latents, velocity, sigma);
                if let Some((start, order)) = last.take() {
                    *latents = unipc::correct(&start, clean, &arrived, sigmas, i - 1, order);
                }
                keep_two(clean, arrived);
                // First order where there is no past yet, and to sigma 0.
                let order = if i == 0 || next <= 0.0 { 1 } else { 2 };
                let predicted = unipc::predict(latents, clean, sigmas, i, order);
                *last = Some((mem::replace(latents, predicted), order));
            }
        }
        self.done += 1;
    }

    /// Both ends of the step under way.
    fn step(&self) -> Option<(f64, f64)> {
        Some((*self.sigmas.get(self.done)?, *self.sigmas.get(self.done + 1)?))
    }
}

fn keep_two(clean: &mut Vec<Vec<f32>>, newest: Vec<f32>) {
    if clean.len() == 2 {
        clean.remove(0);
    }
    clean.push(newest);
}
