//! Classifier-free guidance on velocities.

use llm_dit_params::GenerateParams;

/// True where this step runs the negative prompt too: guidance is on and `time = 1 - sigma` is not
/// past the truncation.
pub fn applies(params: &GenerateParams, time: f32) -> bool {
    params.uses_guidance() && params.cfg_truncation.is_none_or(|limit| time <= limit)
}

/// `positive + g * (positive - negative)`, with its norm clamped to a multiple of the positive
/// one's where `cfg_normalization` says so.
pub fn combine(params: &GenerateParams, positive: &[f32], negative: &[f32]) -> Vec<f32> {
    let g = params.guidance_scale;
    let mut guided: Vec<f32> =
        positive.iter().zip(negative).map(|(p, n)| p + g * (p - n)).collect();
    if let Some(factor) = params.cfg_normalization {
        let limit = norm(positive) * f64::from(factor);
        let length = norm(&guided);
        if length > limit {
            let shrink = (limit / length) as f32;
            guided.iter_mut().for_each(|v| *v *= shrink);
        }
    }
    guided
}

fn norm(values: &[f32]) -> f64 {
    values.iter().map(|v| f64::from(*v) * f64::from(*v)).sum::<f64>().sqrt()
}
