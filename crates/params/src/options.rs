//! Parameters before and after the model's defaults have filled the gaps.

use crate::{
    Limits, LoraSet, ModelDefaults, ParamError, Scheduler,
    bounds::{self, Bound, Range},
    generation_fields,
};

macro_rules! options {
    (generation {
        $($(#[doc = $doc:literal])* $name:ident: $type:ty,
            serde [$($serde:tt)*], flag [$($flag:tt)*], schema [$($schema:tt)*];)*
    }) => {
        /// What the caller asked for. `None` takes the model's default.
        #[derive(Clone, Debug, Default, PartialEq)]
        pub struct GenerateOptions {
            $($(#[doc = $doc])* pub $name: Option<$type>,)*
        }
    };
}

generation_fields!(options! {});

/// What will be made. Every value has been checked against the limits.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct GenerateParams {
    /// The model's name, if one was named; [`choose_model`](crate::choose_model) compares it. Doors
    /// set this and `loras` themselves: [`GenerateOptions`] has neither.
    pub model: Option<String>,
    /// `None` means the default set; an empty set means no LoRAs.
    pub loras: Option<LoraSet>,
    /// Pixels.
    pub width: u32,
    pub height: u32,
    /// Steps along the sigma grid; [`GenerateParams::forwards`] says what they cost.
    pub steps: u32,
    /// Names the initial noise, as in PyTorch on the CPU.
    pub seed: u64,
    /// Another noise that the initial noise is moved towards.
    pub variation: Option<Variation>,
    /// `pred + g * (pred - negative)`; 0 is off.
    pub guidance_scale: f32,
    /// Clamps the guided prediction's norm to this multiple of the unguided one's.
    pub cfg_normalization: Option<f32>,
    /// No guidance where `1 - sigma` exceeds this.
    pub cfg_truncation: Option<f32>,
    /// Time shift of the sigma grid.
    pub shift: f64,
    /// As many as there are steps, falling from at most 1, before the shift; `None` for the
    /// scheduler's own.
    pub sigmas: Option<Vec<f64>>,
    pub scheduler: Scheduler,
    /// How much of a given picture is redrawn, 1 is all; without a picture it has no meaning. A
    /// double as in Python, since `steps - steps * strength` is cut to a whole number.
    pub strength: f64,
    /// Pixels, the deviation of a Gaussian; this and what follows have no meaning without a mask.
    pub mask_blur: f64,
    /// Whether black is redrawn.
    pub mask_invert: bool,
    /// Pixels around the masked part, if only that is drawn.
    pub only_masked: Option<u32>,
}

/// Noise of another seed, and how far it is followed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Variation {
    pub seed: u64,
    /// Above 0, where it would change nothing, to 1, where nothing is left of the first noise.
    pub strength: f32,
}

/// Enough to see, and little enough to know the image again.
pub const DEFAULT_VARIATION_STRENGTH: f32 = 0.2;

/// As diffusers' `ZImageImg2ImgPipeline`.
pub const DEFAULT_STRENGTH: f64 = 0.6;
/// As Stable Diffusion web UI.
pub const DEFAULT_MASK_BLUR: f64 = 4.0;

/// 53 bits, so that the seed survives a trip through JSON readers that know only doubles.
pub fn random_seed() -> u64 {
    rand::random::<u64>() >> 11
}

/// A seed as a flag has it.
///
/// # Errors
/// It is no number from 0 to 2^64-1.
pub fn seed(text: &str) -> Result<u64, ParamError> {
    text.parse().map_err(|_| ParamError::Invalid {
        name: "seed",
        why: format!("use a whole number from 0 to {}, or leave it out for a random one", u64::MAX),
    })
}

impl GenerateOptions {
    /// The scheduler that was named.
    ///
    /// # Errors
    /// There is none of that name.
    pub fn scheduler(&self) -> Result<Option<Scheduler>, ParamError> {
        self.scheduler.as_deref().map(str::parse).transpose()
    }

    fn variation(&self) -> Result<Option<Variation>, ParamError> {
        let unasked = self.variation_seed.map_or(0.0, |_| DEFAULT_VARIATION_STRENGTH);
        let strength = self.variation_strength.unwrap_or(unasked);
        let strength = number(bounds::VARIATION_STRENGTH, strength)?;
        let seed = || self.variation_seed.unwrap_or_else(random_seed);
        Ok((strength > 0.0).then(|| Variation { seed: seed(), strength }))
    }

    /// Fills the gaps and checks every value. A missing seed is drawn at random.
    ///
    /// # Errors
    ///
    /// [`ParamError`] for the first value that is out of its range or that contradicts another.
    pub fn resolve(
        &self,
        defaults: &ModelDefaults,
        limits: &Limits,
    ) -> Result<GenerateParams, ParamError> {
        let width = side("width", self.width.unwrap_or(defaults.width), limits)?;
        let height = side("height", self.height.unwrap_or(defaults.height), limits)?;
        let pixels = u64::from(width) * u64::from(height);
        if pixels > limits.max_pixels {
            return Err(ParamError::TooManyPixels {
                width,
                height,
                pixels,
                limit: limits.max_pixels,
            });
        }
        let scheduler = self.scheduler()?.unwrap_or(defaults.scheduler);
        let given = self.sigmas.as_deref().map(|s| sigmas(s, self.steps, scheduler)).transpose()?;
        let steps = given.or(self.steps).unwrap_or(defaults.steps);
        if steps == 0 || steps > limits.max_steps {
            let (value, max) = (steps.into(), limits.max_steps.into());
            return Err(ParamError::OutOfRange { name: "steps", value, min: 1, max });
        }
        let guidance_scale =
            number(bounds::GUIDANCE_SCALE, self.guidance_scale.unwrap_or(defaults.guidance_scale))?;
        // 0 and 1 are the wire's and the Python program's ways of saying "off".
        let cfg_normalization = self
            .cfg_normalization
            .map(|k| number(bounds::CFG_NORMALIZATION, k))
            .transpose()?
            .filter(|&k| k > 0.0);
        let cfg_truncation = self
            .cfg_truncation
            .map(|t| number(bounds::CFG_TRUNCATION, t))
            .transpose()?
            .filter(|&t| t < 1.0);
        let shift = number(bounds::SHIFT, self.shift.unwrap_or(defaults.shift))?;
        let strength = number(bounds::STRENGTH, self.strength.unwrap_or(DEFAULT_STRENGTH))?;
        let mask_blur = number(bounds::MASK_BLUR, self.mask_blur.unwrap_or(DEFAULT_MASK_BLUR))?;
        if let Some(padding) = self.only_masked {
            number(bounds::ONLY_MASKED, padding)?;
        }
        Ok(GenerateParams {
            model: None,
            loras: None,
            width,
            height,
            steps,
            seed: self.seed.unwrap_or_else(random_seed),
            variation: self.variation()?,
            guidance_scale,
            cfg_normalization,
            cfg_truncation,
            shift,
            sigmas: self.sigmas.clone(),
            scheduler,
            strength,
            mask_blur,
            mask_invert: self.mask_invert.unwrap_or_default(),
            only_masked: self.only_masked,
        })
    }
}

impl GenerateParams {
    /// Every parameter as it is used, so that the same image can be asked for again.
    pub fn options(&self) -> GenerateOptions {
        GenerateOptions {
            width: Some(self.width),
            height: Some(self.height),
            steps: Some(self.steps),
            seed: Some(self.seed),
            variation_seed: self.variation.map(|variation| variation.seed),
            variation_strength: self.variation.map(|variation| variation.strength),
            guidance_scale: Some(self.guidance_scale),
            cfg_normalization: self.cfg_normalization,
            cfg_truncation: self.cfg_truncation,
            shift: Some(self.shift),
            sigmas: self.sigmas.clone(),
            scheduler: Some(self.scheduler.to_string()),
            strength: Some(self.strength),
            mask_blur: Some(self.mask_blur),
            mask_invert: Some(self.mask_invert),
            only_masked: self.only_masked,
        }
    }

    /// DiT forwards, each of which is a reported step. Guidance packs two captions into one.
    pub fn forwards(&self) -> u32 {
        self.scheduler.forwards(self.steps)
    }

    /// True when a second forward a step, for the negative prompt, is needed.
    pub fn uses_guidance(&self) -> bool {
        self.guidance_scale > 0.0
    }

    /// Checks that the strength leaves a step to draw an init image with.
    ///
    /// # Errors
    ///
    /// [`ParamError::NoSteps`].
    pub fn check_strength(&self) -> Result<(), ParamError> {
        let Self { strength, steps, .. } = *self;
        if self.first_step() >= steps {
            return Err(ParamError::NoSteps { strength, steps });
        }
        Ok(())
    }

    /// The step that a given picture is drawn on from, as diffusers' `get_timesteps` counts:
    /// `steps` when the strength leaves none.
    pub fn first_step(&self) -> u32 {
        let steps = f64::from(self.steps);
        (steps - (steps * self.strength).min(steps)).max(0.0) as u32
    }
}

fn side(name: &'static str, value: u32, limits: &Limits) -> Result<u32, ParamError> {
    if value < limits.min_side || value > limits.max_side {
        let (min, max) = (limits.min_side.into(), limits.max_side.into());
        return Err(ParamError::OutOfRange { name, value: value.into(), min, max });
    }
    let multiple = limits.side_multiple;
    if !value.is_multiple_of(multiple) {
        let below = value / multiple * multiple;
        return Err(ParamError::NotMultiple {
            name,
            value,
            multiple,
            below,
            above: below + multiple,
        });
    }
    Ok(value)
}

/// How many steps these sigmas are.
fn sigmas(sigmas: &[f64], steps: Option<u32>, scheduler: Scheduler) -> Result<u32, ParamError> {
    let bad = |why: String| Err(ParamError::Invalid { name: "sigmas", why });
    let count = u32::try_from(sigmas.len()).unwrap_or(u32::MAX);
    if steps.is_some_and(|steps| steps != count) {
        let steps = steps.unwrap_or_default();
        return bad(format!("{count} values for {steps} steps; omit steps, or give one each"));
    }
    if !matches!(scheduler, Scheduler::FlowEuler | Scheduler::FlowHeun) {
        return bad(format!("{scheduler} has a grid of its own; use flow_euler or flow_heun"));
    }
    let falls = sigmas.windows(2).all(|pair| pair[0] > pair[1]);
    if !falls || sigmas.iter().any(|sigma| !(*sigma > 0.0 && *sigma <= 1.0)) {
        return bad("must fall from at most 1 and stay above 0; the final 0 is added".to_owned());
    }
    Ok(count)
}

fn number<T: Copy + Into<f64>>(bound: Bound, value: T) -> Result<T, ParamError> {
    let (min, max) = match bound.range {
        Range::Whole(min, max) => (min as f64, max as f64),
        Range::Number(min, max) => (min, max),
    };
    let (name, wide): (_, f64) = (bound.name, value.into());
    if wide.is_finite() && wide >= min && wide <= max {
        Ok(value)
    } else {
        Err(ParamError::BadNumber { name, value: wide, min, max })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolve(options: GenerateOptions) -> Result<GenerateParams, ParamError> {
        options.resolve(&ModelDefaults::z_image_turbo(), &Limits::default())
    }

    #[test]
    fn gaps_take_the_models_defaults() {
        let params =
            resolve(GenerateOptions { steps: Some(4), ..Default::default() }).expect("valid");
        assert_eq!((params.width, params.height, params.steps), (1024, 1024, 4));
        assert_eq!((params.scheduler, params.forwards()), (Scheduler::FlowEuler, 4));
        assert!(!params.uses_guidance());
        assert!(params.seed < 1 << 53);
    }

    #[test]
    fn sizes_are_refused_with_the_nearest_good_ones() {
        let width = |w| resolve(GenerateOptions { width: Some(w), ..Default::default() });
        let message = width(250).expect_err("not a multiple").to_string();
        assert!(message.contains("240 and 256"), "{message}");
        for w in [0, 16, 100_000] {
            assert!(matches!(width(w), Err(ParamError::OutOfRange { name: "width", .. })));
        }
        assert!(matches!(width(8192), Err(ParamError::TooManyPixels { .. })));
    }

    #[test]
    fn numbers_must_be_finite_and_in_range() {
        for g in [f32::NAN, f32::INFINITY, -1.0, 101.0] {
            let options = GenerateOptions { guidance_scale: Some(g), ..Default::default() };
            assert!(matches!(
                resolve(options),
                Err(ParamError::BadNumber { name: "guidance_scale", .. })
            ));
        }
        let steps = |n| resolve(GenerateOptions { steps: Some(n), ..Default::default() });
        assert!(steps(0).is_err() && steps(201).is_err() && steps(200).is_ok());
    }

    #[test]
    fn strength_chooses_the_first_step_as_python_does() {
        let first = |steps, strength| {
            let options = GenerateOptions {
                steps: Some(steps),
                strength: Some(strength),
                ..Default::default()
            };
            resolve(options).map(|params| params.first_step())
        };
        // int(max(n - min(n * s, n), 0)) in Python.
        for (steps, strength, expected) in [
            (8, 0.6, 3),
            (10, 0.6, 4),
            (10, 0.7, 3),
            (10, 0.3, 7),
            (8, 1.0, 0),
            (8, 0.01, 7),
            (8, 0.0, 8),
        ] {
            assert_eq!(first(steps, strength), Ok(expected), "{steps} x {strength}");
        }
        for strength in [-0.1, 1.1, f64::NAN] {
            assert!(matches!(
                first(8, strength),
                Err(ParamError::BadNumber { name: "strength", .. })
            ));
        }
    }

    #[test]
    fn a_variation_needs_a_strength_or_a_seed() {
        let made = |variation_seed, variation_strength| {
            let given =
                GenerateOptions { variation_seed, variation_strength, ..Default::default() };
            resolve(given.clone()).map(|params| (params.variation, params.options()))
        };
        for off in [(None, None), (None, Some(0.0)), (Some(7), Some(0.0))] {
            assert_eq!(made(off.0, off.1).expect("valid").0, None);
        }
        let default = Variation { seed: 7, strength: DEFAULT_VARIATION_STRENGTH };
        assert_eq!(made(Some(7), None).expect("valid").0, Some(default));
        let (random, again) = made(None, Some(0.5)).expect("valid");
        let random = random.expect("a random seed");
        assert_eq!(random.strength, 0.5);
        assert_eq!(resolve(again).expect("the same again").variation, Some(random));
        assert!(made(Some(7), Some(1.5)).is_err());
    }

    #[test]
    fn sigmas_are_the_steps_and_fall() {
        let given = |sigmas: &[f64]| GenerateOptions {
            sigmas: Some(sigmas.to_vec()),
            ..Default::default()
        };
        let params = resolve(given(&[1.0, 0.8, 0.5])).expect("valid");
        assert_eq!((params.steps, params.sigmas), (3, Some(vec![1.0, 0.8, 0.5])));
        for wrong in [&[][..], &[1.1], &[0.0], &[0.5, 0.5], &[0.2, 0.8], &[f64::NAN], &[1.0, 0.0]] {
            assert!(resolve(given(wrong)).is_err(), "{wrong:?}");
        }
        let steps = GenerateOptions { steps: Some(2), ..given(&[1.0, 0.8, 0.5]) };
        let message = resolve(steps).expect_err("three for two").to_string();
        assert!(message.contains("3 values for 2 steps"), "{message}");
        let other = GenerateOptions { scheduler: Some("unipc".into()), ..given(&[1.0]) };
        assert!(resolve(other).expect_err("its own grid").to_string().contains("flow_euler"));
    }

    #[test]
    fn neutral_values_switch_the_guidance_extras_off() {
        let options = GenerateOptions {
            cfg_normalization: Some(0.0),
            cfg_truncation: Some(1.0),
            ..Default::default()
        };
        let params = resolve(options).expect("valid");
        assert_eq!((params.cfg_normalization, params.cfg_truncation), (None, None));
    }
}
