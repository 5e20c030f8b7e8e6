//! Steps along the velocity itself: Euler's and Heun's.

use super::terms::sum;

/// `latents += (sigma_next - sigma) * velocity`, in f32 as diffusers has it.
pub(super) fn euler(latents: &mut [f32], velocity: &[f32], sigma: f64, sigma_next: f64) {
    let dt = (sigma_next - sigma) as f32;
    for (x, v) in latents.iter_mut().zip(velocity) {
        *x += dt * v;
    }
}

/// Euler's step from `start` again, along the mean of the velocity there and of the one where the
/// first attempt led to.
pub(super) fn heun(
    start: &[f32],
    first: &[f32],
    second: &[f32],
    sigma: f64,
    sigma_next: f64,
) -> Vec<f32> {
    let half = (sigma_next - sigma) / 2.0;
    sum([(1.0, start), (half, first), (half, second)])
}
