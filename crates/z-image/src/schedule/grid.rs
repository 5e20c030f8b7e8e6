//! Sigma grids: falling from noise to 0, one value more than there are steps.

use llm_dit_params::{GenerateParams, Scheduler};

/// The length of training that the oracles of `dpm_solver` and `unipc` count in; their grids end
/// (or rather begin) one part of it away from clean (or noise).
const TRAIN_STEPS: f64 = 1000.0;

/// What UniPC takes off a first sigma of 1, where the logarithm of `1 - sigma` has no value.
const UNIPC_EPSILON: f64 = 1e-6;

/// The sigmas of an image with these parameters, one more than it has steps, the last one 0.
pub fn grid(params: &GenerateParams) -> Vec<f64> {
    match &params.sigmas {
        // As diffusers' `sigmas=`: shifted like the grid of `flow`.
        Some(given) => {
            given.iter().map(|sigma| shifted(*sigma, params.shift)).chain([0.0]).collect()
        }
        None => sigmas(params.scheduler, params.steps, params.shift),
    }
}

/// The sigmas of so many steps, the last one 0. The same as the scheduler of this name sets up in
/// diffusers, given this shift.
pub fn sigmas(scheduler: Scheduler, steps: u32, shift: f64) -> Vec<f64> {
    let inner: fn(u32, u32) -> f64 = match scheduler {
        Scheduler::FlowEuler | Scheduler::FlowHeun => flow,
        Scheduler::DpmSolver => dpm_solver,
        Scheduler::UniPc => unipc,
    };
    let shifted = (0..steps).map(|i| shifted(inner(i, steps), shift));
    let adjusted = shifted.map(|sigma| match scheduler {
        Scheduler::FlowEuler | Scheduler::FlowHeun => sigma,
        Scheduler::DpmSolver => single(sigma),
        Scheduler::UniPc if (sigma - 1.0).abs() < UNIPC_EPSILON => single(sigma - UNIPC_EPSILON),
        Scheduler::UniPc => single(sigma),
    });
    adjusted.chain([0.0]).collect()
}

/// `linspace(1, 1 / steps, steps)`, as `ZImagePipeline` has it.
fn flow(i: u32, steps: u32) -> f64 {
    f64::from(steps - i) / f64::from(steps)
}

/// `1 - linspace(1, 1 / 1000, steps + 1)`, from the large end and without the 0.
fn dpm_solver(i: u32, steps: u32) -> f64 {
    f64::from(steps - i) / f64::from(steps) * (1.0 - 1.0 / TRAIN_STEPS)
}

/// `linspace(1, 1 / 1000, steps + 1)` without the last.
fn unipc(i: u32, steps: u32) -> f64 {
    1.0 - f64::from(i) / f64::from(steps) * (1.0 - 1.0 / TRAIN_STEPS)
}

/// More steps at high noise where `shift > 1`.
fn shifted(sigma: f64, shift: f64) -> f64 {
    shift * sigma / (1.0 + (shift - 1.0) * sigma)
}

/// To single precision and back, because the oracles keep their sigmas so. Near noise `1 - sigma`
/// is about 1e-6 and loses a hundredth to this, which its logarithm then carries into the steps.
fn single(sigma: f64) -> f64 {
    f64::from(sigma as f32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_grid_falls_from_noise_to_zero() {
        for scheduler in Scheduler::ALL {
            for shift in [0.01, 1.0, 3.0, 100.0] {
                for steps in [1, 2, 7, 200] {
                    let grid = sigmas(scheduler, steps, shift);
                    assert_eq!(grid.len(), steps as usize + 1);
                    assert_eq!(grid.last(), Some(&0.0));
                    assert!(grid[0] <= 1.0, "{scheduler} {steps} {shift}: {grid:?}");
                    let falls = grid.windows(2).all(|pair| pair[0] > pair[1]);
                    assert!(falls, "{scheduler} {steps} {shift}: {grid:?}");
                }
            }
        }
    }

    #[test]
    fn solvers_that_take_logarithms_never_start_at_one() {
        for scheduler in [Scheduler::DpmSolver, Scheduler::UniPc] {
            for shift in [0.01, 3.0, 100.0] {
                assert!(sigmas(scheduler, 200, shift)[0] < 1.0);
            }
        }
    }

    #[test]
    fn eight_steps_are_the_ones_of_the_contract() {
        let starts = |scheduler, expected: [f64; 3]| {
            for (ours, expected) in sigmas(scheduler, 8, 3.0).iter().zip(expected) {
                assert!((ours - expected).abs() < 1e-5, "{scheduler}: {ours} for {expected}");
            }
        };
        starts(Scheduler::FlowEuler, [1.0, 0.95455, 0.9]);
        starts(Scheduler::FlowHeun, [1.0, 0.95455, 0.9]);
        starts(Scheduler::DpmSolver, [0.99967, 0.95420, 0.89964]);
        starts(Scheduler::UniPc, [1.0, 0.95460, 0.90012]);
    }
}
