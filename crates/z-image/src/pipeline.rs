//! From embeddings to pixels: noise, steps, decode. The one implementation of the engine trait.

mod denoise;
mod memory;
mod pixels;

use std::time::{Duration, Instant};

use candle_core::{DType, Device, Tensor};
use llm_dit_device::{
    device_id,
    meter::{self, memory_reader},
};
use llm_dit_engine::{
    MemoryReader,
    image::{
        About, ActiveLora, GenerateError, GenerateJob, Generated, ImageGenerator, InspectLora,
        LatentMap, LoraChoice, LoraReport, Member, ModelInfo, Picture, SetLorasError,
    },
    plan::Stage,
    stage_peak,
};
use llm_dit_params::{Limits, ModelDefaults};
use llm_dit_proto as proto;
use llm_dit_weights::{DeviceBudget, Residency, wire_dtype};

use self::denoise::{Start, Trajectory};
use crate::{
    dit,
    error::DrawError,
    parts::{Autoencoder, Transformer},
    schedule::grid,
    source_latents::{Kept, SourceLatents},
    variation::InitialNoise,
};

/// Z-Image, loaded.
pub struct ZImage {
    pub label: String,
    pub about: About,
    pub dit: Transformer,
    pub autoencoder: Autoencoder,
    pub defaults: ModelDefaults,
    pub preview: Option<LatentMap>,
    /// What is fused into `dit`.
    pub loras: Vec<ActiveLora>,
    pub residency: Residency,
    /// What it may take of the transformer's device, if that was planned.
    pub budget: Option<DeviceBudget>,
}

impl ImageGenerator for ZImage {
    fn info(&self) -> ModelInfo {
        let config = self.dit.config();
        // The image's own position follows the padded caption's, so one is kept free; and lengths
        // are whole multiples.
        let caption_axis = config.axes_lens[0].saturating_sub(2) / dit::MULTIPLE * dit::MULTIPLE;
        let scale_factor = self.autoencoder.config().scale_factor();
        let side = config.axes_lens[1].min(config.axes_lens[2]) * 2 * scale_factor;
        let limits = Limits::default();
        ModelInfo {
            model: self.label.clone(),
            about: self.about.clone(),
            cap_feat_dim: config.cap_feat_dim,
            latent_channels: config.in_channels,
            vae_scale_factor: scale_factor,
            max_caption_tokens: caption_axis,
            device: device_id(self.dit.device()),
            dtype: wire_dtype(self.dit.precision().matrices),
            defaults: self.defaults,
            limits: Limits {
                side_multiple: 2 * scale_factor as u32,
                max_side: limits.max_side.min(side as u32),
                ..limits
            },
            preview: self.preview.clone(),
        }
    }

    fn generate_batch(&mut self, batch: Vec<Member<'_>>) {
        let info = self.info();
        for batch in self.admit(&info, batch) {
            self.generate_admitted(&info, batch);
        }
    }

    fn probe(&mut self) -> Result<(), GenerateError> {
        let device = self.dit.device();
        let sum = || Tensor::ones(8, DType::F32, device)?.sum_all()?.to_scalar::<f32>();
        let sum = sum().map_err(DrawError::from)?;
        if sum == 8.0 {
            return Ok(());
        }
        Err(GenerateError::Backend(format!("the device says that eight ones are {sum}")))
    }

    fn memory(&self) -> Option<MemoryReader> {
        Some(memory_reader(self.dit.device()))
    }

    fn weight_bytes(&self) -> u64 {
        let (dit, vae) = (self.dit.weight_bytes(), self.autoencoder.weight_bytes());
        match self.residency {
            Residency::Always => dit + vae,
            Residency::InUse => dit.max(vae),
        }
    }

    fn loaded_bytes(&self) -> u64 {
        self.dit.loaded_bytes() + self.autoencoder.loaded_bytes()
    }

    fn unload(&mut self) {
        self.dit.unload();
        self.autoencoder.unload();
    }

    fn lora_inspector(&self) -> InspectLora {
        self.inspects_loras()
    }

    fn loras(&self) -> Vec<ActiveLora> {
        self.loras.clone()
    }

    fn set_loras(&mut self, choices: &[LoraChoice]) -> Result<LoraReport, SetLorasError> {
        self.change_loras(choices)
    }
}

impl ZImage {
    /// Makes the pictures of a batch that the memory suffices for.
    fn generate_admitted(&mut self, info: &ModelInfo, batch: Vec<Member<'_>>) {
        let started = Instant::now();
        self.make_room(info, &batch);
        let device = self.dit.device().clone();
        let (arrived, peak) = meter::stage(&device, || self.denoise(info, batch));
        stage_peak(Stage::Denoise, peak);
        let denoise = started.elapsed();
        // One after the other, since a picture on its way through the VAE takes far more memory
        // than its latents.
        for mut trajectory in arrived {
            let total = trajectory.total();
            if denoise::wanted(&mut trajectory.member, total) {
                let made = self.decode(info, trajectory.member.job, trajectory.latents, denoise);
                if made.is_err() {
                    self.dit.forget();
                }
                trajectory.member.finish(made.map_err(GenerateError::from));
            } else {
                trajectory.member.finish(Err(GenerateError::Cancelled));
            }
        }
    }

    /// Noise to latents, for those who stay to the end. The others have their answer.
    fn denoise<'a>(&mut self, info: &ModelInfo, batch: Vec<Member<'a>>) -> Vec<Trajectory<'a>> {
        let mut trajectories = Vec::with_capacity(batch.len());
        for mut member in batch {
            match self.begin(info, &mut member) {
                Ok((start, sigmas)) => trajectories.push(Trajectory::new(member, start, sigmas)),
                Err(error) => member.finish(Err(error.into())),
            }
        }
        let Some(first) = trajectories.first() else {
            return Vec::new();
        };
        let params = &first.member.job.params;
        let (shape, guided) = (info.latent_shape(params), params.uses_guidance());
        // Taken by the loop, unless the transformer could not be loaded.
        let mut waiting = Some(trajectories);
        let denoised = self.dit.set_guided(guided).and_then(|()| {
            self.dit
                .with(|dit| Ok(denoise::denoise(dit, shape, waiting.take().unwrap_or_default())))
        });
        denoised.unwrap_or_else(|error| {
            let members = waiting.take().into_iter().flatten().map(|trajectory| trajectory.member);
            denoise::fail(members, &error);
            Vec::new()
        })
    }

    /// What a member's first step gets, and the grid from there on.
    fn begin(
        &mut self,
        info: &ModelInfo,
        member: &mut Member<'_>,
    ) -> Result<(Start, Vec<f64>), DrawError> {
        let job = member.job;
        let (params, first) = (&job.params, job.first_step());
        let grid = grid(params).split_off(first as usize);
        if !denoise::wanted(member, params.scheduler.forwards(params.steps - first)) {
            return Err(GenerateError::Cancelled.into());
        }
        Ok((self.start(job, info.latent_shape(params), grid[0])?, grid))
    }

    /// Noise, or a picture under as much noise as `sigma` says.
    fn start(
        &mut self,
        job: &GenerateJob,
        shape: [usize; 3],
        sigma: f64,
    ) -> Result<Start, DrawError> {
        let mut noise = InitialNoise::of(&job.params);
        match (&job.latents, &job.image) {
            (Some(given), _) => Ok(given.to_f32().into()),
            (None, Some(image)) => {
                let budget = self.vae_budget();
                let autoencoder = &mut self.autoencoder;
                let source = SourceLatents::draw(autoencoder, image, shape, &mut noise, budget)?;
                let latents = source.at(sigma);
                let kept = job.mask.as_ref().map(|mask| Kept::new(source, mask, shape));
                Ok(Start { latents, kept })
            }
            (None, None) => Ok(noise.randn(shape).into()),
        }
    }

    fn decode(
        &mut self,
        info: &ModelInfo,
        job: &GenerateJob,
        latents: Vec<f32>,
        denoise: Duration,
    ) -> Result<Generated, DrawError> {
        let started = Instant::now();
        let config = self.autoencoder.config();
        let shape = info.latent_shape(&job.params);
        let [channels, rows, cols] = shape;
        let z = Tensor::from_slice(&latents, (1, channels, rows, cols), &Device::Cpu)?;
        let z = ((z / config.scaling_factor)? + config.shift_factor)?;
        let budget = self.decode_budget(&job.params);
        let device = self.autoencoder.device().clone();
        let (rgb, peak) = meter::stage(&device, || {
            pixels::bytes(&self.autoencoder.decode::<DrawError>(&z, budget)?)
        });
        stage_peak(Stage::Decode, peak);
        let rgb = rgb?;
        let picture = Picture { width: job.params.width, height: job.params.height, rgb };
        let decode = started.elapsed();
        let latents = job
            .return_latents
            .then(|| proto::Tensor::from_f32(&latents, shape.to_vec(), proto::DType::F32))
            .transpose()
            .map_err(|e| GenerateError::Backend(e.to_string()))?;
        Ok(Generated { picture, latents, denoise, decode })
    }
}
