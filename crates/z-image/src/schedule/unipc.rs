//! UniPC of second order with B2(h): Zhao and others, 2023, arXiv 2302.04867.
//!
//! A predictor advances as DPM-Solver++ does. Once the model has been evaluated at the new sigma, a
//! corrector repeats the step with that output, and the predictor continues from there.

use super::terms::{lambda, sum};

/// From `sigmas[i]` to `sigmas[i + 1]`, as `order` says. `x0s` are the model's x0 predictions up
/// to `sigmas[i]`, the newest last.
pub(super) fn predict(
    latents: &[f32],
    x0s: &[Vec<f32>],
    sigmas: &[f64],
    i: usize,
    order: usize,
) -> Vec<f32> {
    let interval = Interval::between(sigmas, i);
    let keep = (interval.keep, latents);
    match x0s {
        [.., before, now] if order > 1 => {
            let slope = interval.drift / 2.0 / interval.ratio_before(sigmas, i);
            sum([keep, (interval.drift - slope, now), (slope, before)])
        }
        [.., now] => sum([keep, (interval.drift, now)]),
        [] => latents.to_vec(),
    }
}

/// From `sigmas[i]` to `sigmas[i + 1]` again, now that the x0 prediction at the end, `arrived`, is
/// known. `x0s` are those up to `sigmas[i]`.
pub(super) fn correct(
    latents: &[f32],
    x0s: &[Vec<f32>],
    arrived: &[f32],
    sigmas: &[f64],
    i: usize,
    order: usize,
) -> Vec<f32> {
    let interval = Interval::between(sigmas, i);
    let keep = (interval.keep, latents);
    match x0s {
        [.., before, now] if order > 1 => {
            let ratio = interval.ratio_before(sigmas, i);
            let (past, ahead) = interval.weights(ratio);
            let (past, ahead) = (interval.drift * past / ratio, interval.drift * ahead);
            sum([keep, (interval.drift - past - ahead, now), (past, before), (ahead, arrived)])
        }
        [.., now] => {
            let half = interval.drift / 2.0;
            sum([keep, (half, now), (half, arrived)])
        }
        [] => latents.to_vec(),
    }
}

/// The coefficients that belong to one stretch of the grid.
struct Interval {
    /// Minus the difference in lambda.
    hh: f64,
    /// What is left of the latents.
    keep: f64,
    /// What comes of an x0 that stays the same: `-alpha * (e^hh - 1)`. B2(h) is the same
    /// exponential, so it scales the differences too.
    drift: f64,
}

impl Interval {
    fn between(sigmas: &[f64], i: usize) -> Self {
        let (sigma, next) = (sigmas[i], sigmas[i + 1]);
        let hh = lambda(sigma) - lambda(next);
        Self { hh, keep: next / sigma, drift: (next - 1.0) * hh.exp_m1() }
    }

    /// Where the point before lies, in units of this stretch; below 0.
    fn ratio_before(&self, sigmas: &[f64], i: usize) -> f64 {
        (lambda(sigmas[i - 1]) - lambda(sigmas[i])) / -self.hh
    }

    /// The corrector's weights of the two differences, to the point before and to the one ahead:
    /// the solution of `[[1, 1], [ratio, 1]] * weights = b`.
    fn weights(&self, ratio: f64) -> (f64, f64) {
        let hh = self.hh;
        let phi = hh.exp_m1() / hh - 1.0;
        let b = [phi / hh.exp_m1(), 2.0 * (phi / hh - 0.5) / hh.exp_m1()];
        let past = (b[0] - b[1]) / (1.0 - ratio);
        (past, b[0] - past)
    }
}
