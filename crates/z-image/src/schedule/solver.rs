//! The trajectory of one picture along its grid.

use std::mem;

use llm_dit_params::Scheduler;

use super::{dpm_solver, flow, terms, unipc};

/// Chooses the sigma of the next evaluation, and moves the latents by its result.
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
    /// The last two x0 predictions, the newest last.
    DpmSolver(Vec<Vec<f32>>),
    UniPc {
        x0s: Vec<Vec<f32>>,
        /// Latents that the last prediction went out from, and its order.
        last: Option<(Vec<f32>, usize)>,
    },
}

impl Solver {
    /// `sigmas` is a grid of [`super::sigmas`] for the same scheduler, or its end where the trajectory
    /// begins on the way.
    pub fn new(scheduler: Scheduler, sigmas: Vec<f64>) -> Self {
        let method = match scheduler {
            Scheduler::FlowEuler => Method::Euler,
            Scheduler::FlowHeun => Method::Heun(None),
            Scheduler::DpmSolver => Method::DpmSolver(Vec::new()),
            Scheduler::UniPc => Method::UniPc { x0s: Vec::new(), last: None },
        };
        Self { sigmas, done: 0, method }
    }

    /// Where the model is to be asked; `None` once the latents are clean.
    pub fn sigma(&self) -> Option<f64> {
        let (sigma, next) = self.step()?;
        Some(if matches!(self.method, Method::Heun(Some(_))) { next } else { sigma })
    }

    /// Moves the latents by the velocity that the model sees at [`Solver::sigma`]. Returns the sigma
    /// that they have reached, `None` in the middle of a step. After the last step it does nothing.
    pub fn advance(&mut self, latents: &mut Vec<f32>, velocity: &[f32]) -> Option<f64> {
        let (sigma, next) = self.step()?;
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
                        return None;
                    }
                }
            },
            Method::DpmSolver(x0s) => {
                keep_two(x0s, terms::x0(latents, velocity, sigma));
                *latents = dpm_solver::step(latents, x0s, sigmas, i);
            }
            Method::UniPc { x0s, last } => {
                let arrived = terms::x0(latents, velocity, sigma);
                if let Some((start, order)) = last.take() {
                    *latents = unipc::correct(&start, x0s, &arrived, sigmas, i - 1, order);
                }
                keep_two(x0s, arrived);
                // First order where there is no past yet, and to sigma 0.
                let order = if i == 0 || next <= 0.0 { 1 } else { 2 };
                let predicted = unipc::predict(latents, x0s, sigmas, i, order);
                *last = Some((mem::replace(latents, predicted), order));
            }
        }
        self.done += 1;
        Some(next)
    }

    /// Both ends of the step under way.
    fn step(&self) -> Option<(f64, f64)> {
        Some((*self.sigmas.get(self.done)?, *self.sigmas.get(self.done + 1)?))
    }
}

fn keep_two(x0s: &mut Vec<Vec<f32>>, newest: Vec<f32>) {
    if x0s.len() == 2 {
        x0s.remove(0);
    }
    x0s.push(newest);
}
