//! Terms that the multistep solvers share: the noise level in logarithms, and sums of scaled
//! latents.

/// `log((1 - sigma) / sigma)`, the logarithm of the signal-to-noise ratio. Infinite at 0, where the
/// exponentials of the last step then vanish as they should.
pub(super) fn lambda(sigma: f64) -> f64 {
    (1.0 - sigma).ln() - sigma.ln()
}

/// The x0 prediction: what a velocity at this sigma points to, `latents - sigma * velocity`.
pub(crate) fn x0(latents: &[f32], velocity: &[f32], sigma: f64) -> Vec<f32> {
    sum([(1.0, latents), (-sigma, velocity)])
}

/// The sum of the slices, each times its factor, in f64 and rounded once.
pub(super) fn sum<const N: usize>(terms: [(f64, &[f32]); N]) -> Vec<f32> {
    let length = terms.iter().map(|(_, values)| values.len()).min().unwrap_or_default();
    let at = |i: usize| -> f64 {
        terms.iter().map(|(factor, values)| factor * f64::from(values[i])).sum()
    };
    (0..length).map(|i| at(i) as f32).collect()
}
