//! What an image is drawn from, and which parameters have a meaning then.

use crate::{GenerateOptions, GenerateParams};

/// With a mask, everything behind it is drawn anew, as in diffusers' `ZImageInpaintPipeline`.
pub const DEFAULT_MASKED_STRENGTH: f64 = 1.0;

/// What an image is drawn from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Start {
    #[default]
    Noise,
    /// A whole image.
    Image,
    /// The masked part of an image.
    MaskedImage,
}

impl Start {
    /// Of a request with these files.
    pub fn of(has_image: bool, has_mask: bool) -> Self {
        match (has_image, has_mask) {
            (false, _) => Self::Noise,
            (true, false) => Self::Image,
            (true, true) => Self::MaskedImage,
        }
    }

    /// Whether there is an image.
    pub fn is_image(self) -> bool {
        self != Self::Noise
    }
}

impl GenerateOptions {
    /// With the default values that are this start's.
    #[must_use]
    pub fn from_start(self, start: Start) -> Self {
        let masked = (start == Start::MaskedImage).then_some(DEFAULT_MASKED_STRENGTH);
        Self { strength: self.strength.or(masked), ..self }
    }

    /// The first parameter that is given and has no meaning without a mask.
    pub fn of_a_mask(&self) -> Option<&'static str> {
        [
            ("mask_blur", self.mask_blur.is_some()),
            ("mask_invert", self.mask_invert.is_some()),
            ("only_masked", self.only_masked.is_some()),
        ]
        .into_iter()
        .find_map(|(name, given)| given.then_some(name))
    }
}

impl GenerateParams {
    /// Every parameter that has a meaning with this start, as it is used: with these, the same image
    /// can be asked for again.
    pub fn used(&self, start: Start) -> GenerateOptions {
        let masked = start == Start::MaskedImage;
        GenerateOptions {
            strength: start.is_image().then_some(self.strength),
            mask_blur: masked.then_some(self.mask_blur),
            mask_invert: (masked && self.mask_invert).then_some(true),
            only_masked: self.only_masked.filter(|_| masked),
            ..self.options()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{DEFAULT_STRENGTH, Limits, ModelDefaults};

    #[test]
    fn each_start_has_its_own_parameters_and_strength() {
        for (start, strength) in [
            (Start::Noise, None),
            (Start::Image, Some(DEFAULT_STRENGTH)),
            (Start::MaskedImage, Some(DEFAULT_MASKED_STRENGTH)),
        ] {
            let options = GenerateOptions {
                mask_invert: Some(true),
                only_masked: Some(32),
                ..Default::default()
            };
            let params = options
                .from_start(start)
                .resolve(&ModelDefaults::z_image_turbo(), &Limits::default())
                .expect("valid");
            let used = params.used(start);
            assert_eq!(used.strength, strength, "{start:?}");
            assert_eq!(used.only_masked.is_some(), start == Start::MaskedImage);
            assert_eq!(used.of_a_mask().is_some(), start == Start::MaskedImage);
        }
        let given = GenerateOptions { strength: Some(0.3), ..Default::default() };
        assert_eq!(given.clone().from_start(Start::MaskedImage), given);
        assert_eq!(Start::of(false, true), Start::Noise);
    }
}
