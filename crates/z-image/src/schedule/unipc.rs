//! UniPC of second order with B2(h): Zhao and others, 2023, arXiv 2302.04867.
//!
//! A predictor goes ahead as DPM-Solver++ does. Once the model has been asked at the new place, a
//! corrector goes the same way again with that answer, and the predictor goes on from there.

use super::terms::{lambda, sum};

/// From `sigmas[i]` to `sigmas[i + 1]`, as `order` says. `clean` are the model's clean pictures up
/// to `sigmas[i]`, the newest last.
pub(super) fn predict(
    latents: &[f32],
    clean: &[Vec<f32>],
    sigmas: &[f64],
    i: usize,
    order: usize,
) -> Vec<f32> {
    let way = Way::between(sigmas, i);
    let keep = (way.keep, latents);
    match clean {
        [.., before, now] if order > 1 => {
            let slope = way.drift / 2.0 / way.ratio_before(sigmas, i);
            sum([keep, (way.drift - slope, now), (slope, before)])
        }
        [.., now] => sum([keep, (way.drift, now)]),
        [] => latents.to_vec(),
    }
}

/// From `sigmas[i]` to `sigmas[i + 1]` again, now that the clean picture at the end, `arrived`, is
/// known. `clean` are those up to `sigmas[i]`.
pub(super) fn correct(
    latents: &[f32],
    clean: &[Vec<f32>],
    arrived: &[f32],
    sigmas: &[f64],
    i: usize,
    order: usize,
) -> Vec<f32> {
    let way = Way::between(sigmas, i);
    let keep = (way.keep, latents);
    match clean {
        [.., before, now] if order > 1 => {
            let ratio = way.ratio_before(sigmas, i);
            let (past, ahead) = way.weights(ratio);
            let (past, ahead) = (way.drift * past / ratio, way.drift * ahead);
            sum([keep, (way.drift - past - ahead, now), (past, before), (ahead, arrived)])
        }
        [.., now] => {
            let half = way.drift / 2.0;
            sum([keep, (half, now), (half, arrived)])
        }
        [] => latents.to_vec(),
    }
}

/// The coefficients that belong to one stretch of the grid.
struct Way {
    /// Minus the difference in lambda.
    hh: f64,
    /// What is left of the latents.
    keep: f64,
    /// What comes of a clean picture that stays the same: `-alpha * (e^hh - 1)`. B2(h) is the same
    /// exponential, so it scales the differences too.
    drift: f64,
}

impl Way {
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
