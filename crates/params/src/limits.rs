//! The limits of a loaded model and its service, and their defaults.

use crate::Scheduler;

/// Bounds on a request.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Limits {
    /// Width and height are multiples of this: VAE scale times patch size, 16.
    pub side_multiple: u32,
    pub min_side: u32,
    /// The RoPE axis: 512 patches of 16 pixels.
    pub max_side: u32,
    pub max_pixels: u64,
    pub max_steps: u32,
}

/// Z-Image's.
pub(crate) const DEFAULT_LIMITS: Limits = Limits {
    side_multiple: 16,
    min_side: 64,
    max_side: 8192,
    max_pixels: 2048 * 2048,
    max_steps: 200,
};

impl Default for Limits {
    fn default() -> Self {
        DEFAULT_LIMITS
    }
}

impl Limits {
    /// The size of a picture that is drawn from one of `source` pixels: what was asked for; else
    /// the source's own size or, beside a side that was asked for, its proportions. Sides are cut
    /// to whole multiples and shrunk until the whole is within the limits.
    pub fn size_from(
        &self,
        source: (u32, u32),
        width: Option<u32>,
        height: Option<u32>,
    ) -> (u32, u32) {
        let (w, h) = (f64::from(source.0.max(1)), f64::from(source.1.max(1)));
        let (low, high) = (f64::from(self.min_side), f64::from(self.max_side));
        let multiple = f64::from(self.side_multiple.max(1));
        let whole = |x: f64| ((x.clamp(low, high) / multiple).floor() * multiple) as u32;
        match (width, height) {
            (Some(width), Some(height)) => (width, height),
            (Some(width), None) => (width, whole(f64::from(width) * h / w)),
            (None, Some(height)) => (whole(f64::from(height) * w / h), height),
            (None, None) => {
                let fits = (self.max_pixels as f64 / (w * h)).sqrt();
                let scale = fits.min(high / w).min(high / h).min(1.0);
                (whole(w * scale), whole(h * scale))
            }
        }
    }
}

/// What a model does when the caller leaves a parameter out.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ModelDefaults {
    pub width: u32,
    pub height: u32,
    pub steps: u32,
    pub guidance_scale: f32,
    pub shift: f64,
    pub scheduler: Scheduler,
}

impl ModelDefaults {
    /// Z-Image-Turbo: distilled for 8 forwards without guidance.
    pub fn z_image_turbo() -> Self {
        Self {
            width: 1024,
            height: 1024,
            steps: 8,
            guidance_scale: 0.0,
            shift: 3.0,
            scheduler: Scheduler::FlowEuler,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_picture_gives_the_size_that_is_not_asked_for() {
        let limits = Limits::default();
        let size = |source, width, height| limits.size_from(source, width, height);
        assert_eq!(size((1000, 700), None, None), (992, 688));
        assert_eq!(size((1000, 700), Some(512), Some(250)), (512, 250));
        assert_eq!(size((1000, 500), Some(512), None), (512, 256));
        assert_eq!(size((1000, 500), None, Some(512)), (1024, 512));
        assert_eq!(size((10, 10), None, None), (64, 64));
        for source in [(6000, 4000), (100_000, 10), (u32::MAX, u32::MAX), (0, 0)] {
            let (width, height) = size(source, None, None);
            assert!(u64::from(width) * u64::from(height) <= limits.max_pixels);
            for side in [width, height] {
                assert!(side.is_multiple_of(16) && (64..=8192).contains(&side), "{source:?}");
            }
        }
    }
}
