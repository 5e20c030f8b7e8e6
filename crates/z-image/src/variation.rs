//! Initial noise, and noise between that of two seeds: Automatic1111's variation seed.

use llm_dit_params::{GenerateParams, Variation};

use crate::noise::Noise;

/// Cosine of the mean angle above which two noises are mixed in a straight line.
const ALIKE: f64 = 0.9995;

/// The noise of a request. All draws of an image, also those for its init image, are moved towards the
/// same draws of the variation's seed, so that with strength 1 the image is that seed's.
pub(crate) struct InitialNoise {
    own: Noise,
    variation: Option<(Noise, f32)>,
}

impl InitialNoise {
    pub fn of(params: &GenerateParams) -> Self {
        let other = |Variation { seed, strength }| (Noise::new(seed), strength);
        Self { own: Noise::new(params.seed), variation: params.variation.map(other) }
    }

    /// The next values of this shape, `(channels, height, width)`.
    pub fn randn(&mut self, shape: [usize; 3]) -> Vec<f32> {
        let count = shape.iter().product();
        let own = self.own.randn(count);
        match &mut self.variation {
            Some((other, strength)) => slerp(*strength, own, &other.randn(count), shape),
            None => own,
        }
    }
}

/// Spherical interpolation from `low` (0) to `high` (1). As in Automatic1111, each column of each channel
/// has an angle of its own.
fn slerp(
    strength: f32,
    mut low: Vec<f32>,
    high: &[f32],
    [channels, height, width]: [usize; 3],
) -> Vec<f32> {
    let column =
        |plane: usize, x: usize| (0..height).map(move |y| (plane * height + y) * width + x);
    let columns = || (0..channels).flat_map(move |plane| (0..width).map(move |x| (plane, x)));
    let product = |a: &[f32], b: &[f32], (plane, x): (usize, usize)| {
        column(plane, x).map(|i| f64::from(a[i]) * f64::from(b[i])).sum::<f64>()
    };
    let cosines: Vec<f64> = columns()
        .map(|at| {
            let norms = product(&low, &low, at).sqrt() * product(high, high, at).sqrt();
            product(&low, high, at) / norms
        })
        .collect();
    let strength = f64::from(strength);
    let is_alike = cosines.iter().sum::<f64>() / cosines.len() as f64 > ALIKE;
    for ((plane, x), cosine) in columns().zip(&cosines) {
        let angle = cosine.clamp(-1.0, 1.0).acos();
        let (from, to) = if is_alike {
            (1.0 - strength, strength)
        } else {
            let share = |part: f64| (part * angle).sin() / angle.sin();
            (share(1.0 - strength), share(strength))
        };
        for i in column(plane, x) {
            low[i] = (f64::from(low[i]) * from + f64::from(high[i]) * to) as f32;
        }
    }
    low
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use candle_core::Device;
    use llm_dit_params::{GenerateOptions, Limits, ModelDefaults};

    use super::*;
    use crate::noise::randn;

    const SHAPE: [usize; 3] = [2, 4, 6];

    fn noise(seed: u64, variation: Option<(u64, f32)>) -> [Vec<f32>; 2] {
        let options = GenerateOptions {
            seed: Some(seed),
            variation_seed: variation.map(|(seed, _)| seed),
            variation_strength: variation.map(|(_, strength)| strength),
            ..Default::default()
        };
        let params = options.resolve(&ModelDefaults::z_image_turbo(), &Limits::default());
        let mut noise = InitialNoise::of(&params.expect("valid"));
        [noise.randn(SHAPE), noise.randn(SHAPE)]
    }

    #[test]
    fn the_ends_are_the_two_seeds_and_off_changes_nothing() {
        assert_eq!(noise(3, Some((9, 0.0))), noise(3, None));
        assert_eq!(noise(3, Some((9, 1.0))), noise(9, None));
        let [same, _] = noise(3, Some((3, 0.4)));
        for (same, own) in same.iter().zip(&noise(3, None)[0]) {
            assert!((same - own).abs() < 1e-6, "{same} and {own}");
        }
    }

    #[test]
    fn what_lies_between_is_automatic1111s() {
        let file =
            Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/goldens/variation.safetensors");
        let goldens = candle_core::safetensors::load(file, &Device::Cpu).expect("goldens");
        let seeds: Vec<i64> = goldens["seeds"].to_vec1().expect("seeds");
        let shape = [16, 6, 10];
        for (name, strength) in [("02", 0.2), ("05", 0.5), ("09", 0.9)] {
            let expected = goldens[&format!("noise_{name}")].flatten_all().expect("noise");
            let expected: Vec<f32> = expected.to_vec1().expect("f32");
            let [low, high] = [seeds[0], seeds[1]].map(|seed| randn(seed as u64, expected.len()));
            let made = slerp(strength, low, &high, shape);
            for (made, expected) in made.iter().zip(&expected) {
                assert!((made - expected).abs() < 1e-5, "{made}, expected {expected}");
            }
        }
    }

    #[test]
    fn what_lies_between_is_as_long() {
        let [own, _] = noise(3, None);
        for strength in [0.1, 0.5, 0.9] {
            let [made, _] = noise(3, Some((9, strength)));
            let length = |x: &[f32]| x.iter().map(|x| x * x).sum::<f32>().sqrt();
            assert!((length(&made) / length(&own) - 1.0).abs() < 0.5);
            assert_ne!(made, own);
        }
    }
}
