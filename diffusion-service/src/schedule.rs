//! Time steps: pure functions, without state that a second call could find changed.

/// Sigmas of the flow-matching Euler scheduler, as diffusers' `ZImagePipeline` sets up
/// `FlowMatchEulerDiscreteScheduler`: `steps` values from 1 down to `1 / steps`, shifted, and a
/// final 0. `steps` counts forwards of the model.
///
/// `shift * s / (1 + (shift - 1) * s)` gives more steps to high noise where `shift > 1`.
pub fn flow_sigmas(steps: u32, shift: f64) -> Vec<f64> {
    let shifted = (0..steps).map(|i| {
        let s = f64::from(steps - i) / f64::from(steps);
        shift * s / (1.0 + (shift - 1.0) * s)
    });
    shifted.chain([0.0]).collect()
}

/// One Euler step along the velocity: `latents += (sigma_next - sigma) * velocity`.
pub fn euler_step(latents: &mut [f32], velocity: &[f32], sigma: f64, sigma_next: f64) {
    let dt = (sigma_next - sigma) as f32;
    for (x, v) in latents.iter_mut().zip(velocity) {
        *x += dt * v;
    }
}
