//! Jobs that are done together.

use std::ops::ControlFlow;

use llm_dit_params::{GenerateParams, Start};

use super::{
    CheckedJob, GenerateError, GenerateJob, Generated, LoraChoice, Step, StepSink, X0Prediction,
};
use crate::DeviceId;

/// Pixels that a picture may have before it counts as more than one.
const PIXELS: u64 = 1024 * 1024;

/// A job among those that are done together.
pub struct Member<'a> {
    pub job: &'a CheckedJob,
    pub sink: Box<dyn StepSink + 'a>,
    done: Box<dyn FnOnce(Result<Generated, GenerateError>) + 'a>,
}

/// What the members of a batch have in common, so that they can take every step together: weights,
/// shapes, the grid, and guidance in the same steps. Seeds, prompts, the strength of guidance and
/// previews may differ.
#[derive(Clone, Debug, PartialEq)]
pub struct BatchKey {
    loras: Vec<LoraChoice>,
    first_step: u32,
    /// Those that may differ have one value here. A new parameter is part of the key unless
    /// [`BatchKey::of`] says otherwise.
    params: GenerateParams,
}

/// How many pictures of 1024x1024 without guidance may be made together. What is larger, or goes
/// through the transformer twice for guidance, counts for as many as take that memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchLimit(usize);

impl<'a> Member<'a> {
    /// `done` gets the result.
    pub fn new(
        job: &'a CheckedJob,
        sink: impl StepSink + 'a,
        done: impl FnOnce(Result<Generated, GenerateError>) + 'a,
    ) -> Self {
        Self { job, sink: Box::new(sink), done: Box::new(done) }
    }

    /// Tells the caller, once. The sink is gone by then.
    pub fn finish(self, result: Result<Generated, GenerateError>) {
        drop(self.sink);
        (self.done)(result);
    }
}

/// A sink that is borrowed from its owner.
pub(super) struct Borrowed<'a>(pub &'a mut dyn StepSink);

impl StepSink for Borrowed<'_> {
    fn step(&mut self, step: Step) -> ControlFlow<()> {
        self.0.step(step)
    }

    fn guess(&mut self, guess: X0Prediction) {
        self.0.guess(guess);
    }
}

impl BatchLimit {
    /// 0 counts as 1.
    pub fn new(pictures: usize) -> Self {
        Self(pictures.max(1))
    }

    /// What is sensible on this device: a CPU is busy with one picture, and would only make the first
    /// wait for the last.
    pub fn of_device(device: DeviceId) -> Self {
        Self(if device.is_cpu() { 1 } else { 4 })
    }

    /// Whether so many that have this in common may go together. One always may.
    pub fn allows(self, key: &BatchKey, count: usize) -> bool {
        let GenerateParams { width, height, .. } = key.params;
        let pixels = (u64::from(width) * u64::from(height)).max(PIXELS);
        let passes = if key.params.uses_guidance() { 2 } else { 1 };
        count <= 1 || pixels * passes * count as u64 <= PIXELS * self.0 as u64
    }

    /// What an image of this size counts for, rounded up.
    pub fn units(width: u32, height: u32, is_guided: bool) -> usize {
        let pixels = (u64::from(width) * u64::from(height)).max(PIXELS);
        let passes = if is_guided { 2 } else { 1 };
        (pixels * passes).div_ceil(PIXELS) as usize
    }
}

impl BatchKey {
    /// `loras`: what `params.loras` means.
    pub fn of(params: &GenerateParams, start: Start, loras: &[LoraChoice]) -> Self {
        let first_step = if start.is_image() { params.first_step() } else { 0 };
        let mut params = params.clone();
        (params.seed, params.strength, params.loras) = (0, 1.0, None);
        params.variation = None;
        // What is kept of an image is each image's own.
        (params.mask_blur, params.mask_invert, params.only_masked) = (0.0, false, None);
        params.cfg_normalization = None;
        if params.uses_guidance() {
            params.guidance_scale = 1.0;
        } else {
            params.cfg_truncation = None;
        }
        Self { loras: loras.to_vec(), first_step, params }
    }
}

impl GenerateJob {
    /// Whether both can be members of one batch.
    pub fn fits(&self, other: &Self) -> bool {
        self.batch_key() == other.batch_key()
    }

    /// What it is drawn from.
    pub fn start(&self) -> Start {
        Start::of(self.image.is_some(), self.mask.is_some())
    }

    /// Steps that a picture to draw from stands for.
    pub fn first_step(&self) -> u32 {
        if self.image.is_some() { self.params.first_step() } else { 0 }
    }

    fn batch_key(&self) -> BatchKey {
        BatchKey::of(&self.params, self.start(), &self.loras)
    }
}

#[cfg(test)]
mod tests {
    use llm_dit_params::{GenerateOptions, Limits, LoraPass, ModelDefaults};
    use llm_dit_proto::{DType, Tensor};

    use super::*;
    use crate::image::{Mask, Picture};

    fn job(change: impl FnOnce(&mut GenerateOptions)) -> GenerateJob {
        let mut options =
            GenerateOptions { width: Some(64), height: Some(64), ..Default::default() };
        change(&mut options);
        let params = options.resolve(&ModelDefaults::z_image_turbo(), &Limits::default());
        GenerateJob {
            params: params.expect("valid"),
            loras: Vec::new(),
            embeddings: Tensor::from_f32(&[0.0], vec![1, 1], DType::F32).expect("one value"),
            negative_embeddings: None,
            latents: None,
            image: None,
            mask: None,
            return_latents: false,
            preview: None,
        }
    }

    fn from_picture(strength: f64) -> GenerateJob {
        let image = Picture { width: 64, height: 64, rgb: vec![0; 64 * 64 * 3] };
        GenerateJob { image: Some(image), ..job(|o| o.strength = Some(strength)) }
    }

    #[test]
    fn jobs_fit_when_they_take_the_same_steps() {
        let plain = job(|_| {});
        assert!(plain.fits(&job(|o| o.seed = Some(5))));
        assert!(plain.fits(&job(|o| o.variation_seed = Some(5))));
        let mut other = job(|_| {});
        other.params.model = Some("other".to_owned());
        assert!(!plain.fits(&other));
        assert!(!plain.fits(&job(|o| o.width = Some(80))));
        assert!(!plain.fits(&job(|o| o.height = Some(80))));
        assert!(!plain.fits(&job(|o| o.steps = Some(5))));
        assert!(!plain.fits(&job(|o| o.shift = Some(6.0))));
        assert!(!plain.fits(&job(|o| o.scheduler = Some("unipc".into()))));

        let guided = job(|o| o.guidance_scale = Some(2.0));
        assert!(!plain.fits(&guided));
        assert!(guided.fits(&job(|o| o.guidance_scale = Some(3.0))));
        assert!(!guided.fits(&job(|o| {
            o.guidance_scale = Some(2.0);
            o.cfg_truncation = Some(0.5);
        })));

        assert!(!plain.fits(&from_picture(0.5)));
        assert!(from_picture(0.5).fits(&from_picture(0.5)));
        assert!(!from_picture(0.5).fits(&from_picture(0.9)));
        assert!(plain.fits(&from_picture(1.0)), "all steps are taken");
        let mut masked = from_picture(0.5);
        masked.mask = Some(Mask { width: 64, height: 64, values: vec![255; 64 * 64] });
        (masked.params.mask_invert, masked.params.only_masked) = (true, Some(8));
        assert!(from_picture(0.5).fits(&masked), "each keeps its own part");
    }

    #[test]
    fn jobs_fit_when_they_have_the_same_loras() {
        let with = |scale, words: &str| {
            let (name, path) = ("ink".to_owned(), "ink.safetensors".into());
            let lora = LoraChoice {
                name,
                path,
                scale,
                trigger_words: words.to_owned(),
                blocks: Default::default(),
                pass: Default::default(),
            };
            GenerateJob { loras: vec![lora], ..job(|_| {}) }
        };
        assert!(with(1.0, "").fits(&with(1.0, "")));
        assert!(!with(1.0, "").fits(&with(0.5, "")));
        assert!(!with(1.0, "").fits(&job(|_| {})));
        let mut other = with(1.0, "");
        other.loras[0].pass = LoraPass::Positive;
        assert!(!with(1.0, "").fits(&other) && other.fits(&other));
    }

    #[test]
    fn large_pictures_and_guidance_count_for_several() {
        let most = |limit: usize, job: &GenerateJob| {
            (1..=16).rev().find(|&count| BatchLimit::new(limit).allows(&job.batch_key(), count))
        };
        let sized = |width, height| job(|o| (o.width, o.height) = (Some(width), Some(height)));
        assert_eq!(most(4, &sized(64, 64)), Some(4));
        assert_eq!(most(4, &sized(1024, 1024)), Some(4));
        assert_eq!(most(4, &sized(1536, 1024)), Some(2));
        assert_eq!(most(4, &sized(2048, 2048)), Some(1));
        assert_eq!(most(4, &job(|o| o.guidance_scale = Some(2.0))), Some(2));
        assert_eq!(most(1, &job(|o| o.guidance_scale = Some(2.0))), Some(1));
        assert_eq!(most(0, &sized(64, 64)), Some(1));
        assert_eq!(BatchLimit::of_device(DeviceId::Cpu), BatchLimit::new(1));
        assert_eq!(BatchLimit::of_device(DeviceId::Cuda(0)), BatchLimit::new(4));
    }
}
