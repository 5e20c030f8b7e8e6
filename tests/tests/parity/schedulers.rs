//! Sigma grids and solvers against diffusers' schedulers, over a fixed sequence of model outputs
//! that do not depend on the latents. The bound is the largest difference by the largest value, for
//! the latents after every forward.

use llm_dit_params::Scheduler;
use llm_dit_tests::goldens::Goldens;
use llm_dit_z_image::schedule::{Solver, sigmas};

const BOUND: f64 = 1e-5;
const STEPS: [u32; 8] = [1, 2, 3, 4, 8, 9, 20, 50];
const SHIFTS: [f64; 3] = [3.0, 6.0, 1.0];

/// One walk: where the model was asked, and the latents after each answer.
fn walk(
    scheduler: Scheduler,
    steps: u32,
    shift: f64,
    goldens: &Goldens,
) -> (Vec<f64>, Vec<Vec<f32>>) {
    let mut latents = goldens.values("start");
    let outputs = goldens.values("outputs");
    let mut outputs = outputs.chunks_exact(latents.len());
    let mut solver = Solver::new(scheduler, sigmas(scheduler, steps, shift));
    let (mut asked, mut way) = (Vec::new(), Vec::new());
    while let Some(sigma) = solver.sigma() {
        solver.advance(&mut latents, outputs.next().expect("an output for every forward"));
        asked.push(sigma);
        way.push(latents.clone());
    }
    (asked, way)
}

/// The largest difference by the largest value.
fn distance(ours: &[f32], expected: &[f32]) -> f64 {
    assert_eq!(ours.len(), expected.len());
    let largest = |values: &mut dyn Iterator<Item = f32>| values.fold(0f32, |m, v| m.max(v.abs()));
    let apart = largest(&mut ours.iter().zip(expected).map(|(a, b)| a - b));
    // A NaN would be lost in a maximum.
    assert!(ours.iter().all(|v| v.is_finite()));
    f64::from(apart) / f64::from(largest(&mut expected.iter().copied()))
}

#[test]
fn every_solver_takes_the_oracles_way() {
    let goldens = Goldens::open("schedulers.safetensors");
    for scheduler in Scheduler::ALL {
        let (mut worst_of_all, mut worst_sigma) = (0f64, 0f64);
        for shift in SHIFTS {
            for steps in STEPS {
                let key = format!("{scheduler}_shift{shift}_{steps}");
                let (asked, way) = walk(scheduler, steps, shift, &goldens);
                assert_eq!(asked.len(), scheduler.forwards(steps) as usize, "{key}");

                let grid = goldens.values(&format!("sigmas_{key}"));
                assert_eq!(grid.len(), asked.len(), "{key}");
                let apart = asked.iter().zip(&grid).map(|(a, b)| (a - f64::from(*b)).abs());
                let off = apart.fold(0f64, f64::max);
                // The oracles compute them in single precision, two units in whose last place are
                // 1.2e-7.
                assert!(off <= 2e-7, "{key}: a sigma is off by {off}");
                worst_sigma = worst_sigma.max(off);

                let latents = goldens.values(&format!("latents_{key}"));
                assert_eq!(latents.len(), way.len() * way[0].len(), "{key}");
                let worst = way
                    .iter()
                    .zip(latents.chunks_exact(way[0].len()))
                    .map(|(ours, expected)| distance(ours, expected))
                    .fold(0f64, f64::max);
                println!("{key}: {worst:.1e}");
                worst_of_all = worst_of_all.max(worst);
            }
        }
        println!(
            "{scheduler}: latents at most {worst_of_all:.1e}, sigmas at most {worst_sigma:.1e}"
        );
        assert!(worst_of_all <= BOUND, "{scheduler}: {worst_of_all}");
    }
}

/// The velocity of a single clean picture is the same all the way, so every solver has to land on
/// that picture, whatever its order.
#[test]
fn every_solver_lands_on_a_constant_picture() {
    let (noise, picture) = ([1.5f32, -0.25, 0.0, 2.0], [0.5f32, 0.125, -1.0, 2.0]);
    for scheduler in Scheduler::ALL {
        for steps in STEPS {
            let mut latents = noise.to_vec();
            let mut solver = Solver::new(scheduler, sigmas(scheduler, steps, 3.0));
            while let Some(sigma) = solver.sigma() {
                let seen = latents.iter().zip(&picture);
                let velocity: Vec<f32> =
                    seen.map(|(x, p)| ((f64::from(x - p)) / sigma) as f32).collect();
                solver.advance(&mut latents, &velocity);
            }
            let apart = distance(&latents, &picture);
            assert!(apart <= 1e-6, "{scheduler} at {steps} steps: {latents:?}");
        }
    }
}

/// A second walk cannot find what the first one left.
#[test]
fn walks_know_nothing_of_each_other() {
    let goldens = Goldens::open("schedulers.safetensors");
    for scheduler in Scheduler::ALL {
        let first = walk(scheduler, 8, 3.0, &goldens);
        let other = walk(scheduler, 9, 6.0, &goldens);
        assert_ne!(first.1.last(), other.1.last());
        assert_eq!(walk(scheduler, 8, 3.0, &goldens), first);
    }
}
