//! Schedules from noise to picture: the sigmas at which the model is evaluated, and how its outputs
//! move the latents.
//!
//! Grids and steps are pure functions. A [`Solver`] strings them together for one picture; it is
//! made for the request and owns what it has to remember, so no other request can find it changed.

mod dpm_solver;
mod flow;
mod grid;
mod solver;
mod terms;
mod unipc;

pub(crate) use self::terms::x0;
pub use self::{
    grid::{grid, sigmas},
    solver::Solver,
};
