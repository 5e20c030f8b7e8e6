//! DPM-Solver++ (2M), multistep with the midpoint rule: Lu and others, 2022, arXiv 2211.01095.

use super::terms::{lambda, sum};

/// From `sigmas[i]` to `sigmas[i + 1]`. `x0s` are the model's x0 predictions at the step before
/// last and at this one: the newest is last, and with one alone the step is of first order. So is
/// the step to sigma 0, which lands on the newest.
pub(super) fn step(latents: &[f32], x0s: &[Vec<f32>], sigmas: &[f64], i: usize) -> Vec<f32> {
    let (sigma, next) = (sigmas[i], sigmas[i + 1]);
    let h = lambda(next) - lambda(sigma);
    let drift = (next - 1.0) * (-h).exp_m1();
    let keep = (next / sigma, latents);
    match x0s {
        [.., before, now] if next > 0.0 => {
            let ratio = (lambda(sigma) - lambda(sigmas[i - 1])) / h;
            let slope = drift / (2.0 * ratio);
            sum([keep, (drift + slope, now), (-slope, before)])
        }
        [.., now] => sum([keep, (drift, now)]),
        [] => latents.to_vec(),
    }
}
