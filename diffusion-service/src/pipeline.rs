//! From embeddings to pixels: noise, steps, decode. The one implementation of the engine trait.

use std::{
    ops::ControlFlow,
    time::{Duration, Instant},
};

use candle_core::{Device, Tensor};
use llm_dit_params::{Limits, ModelDefaults};
use llm_dit_proto as proto;
use llm_dit_weights::{LoadError, device_name, wire_dtype};

use crate::{
    dit::{self, Conditioning, Dit},
    engine::{
        ActiveLora, GenerateError, GenerateJob, Generated, Guess, ImageGenerator, LoraChoice,
        LoraReport, ModelInfo, Picture, SetLorasError, Step, StepSink,
    },
    guidance,
    noise::Noise,
    parts::{Autoencoder, Transformer},
    preview::LatentMap,
    schedule::{Solver, clean, sigmas},
    source_latents,
};

/// Z-Image, loaded.
pub struct ZImage {
    pub label: String,
    pub dit: Transformer,
    pub autoencoder: Autoencoder,
    pub defaults: ModelDefaults,
    pub preview: Option<LatentMap>,
    /// What is fused into `dit`.
    pub loras: Vec<ActiveLora>,
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
            cap_feat_dim: config.cap_feat_dim,
            latent_channels: config.in_channels,
            vae_scale_factor: scale_factor,
            max_caption_tokens: caption_axis,
            device: device_name(self.dit.device()),
            dtype: wire_dtype(self.dit.dtype()),
            defaults: self.defaults,
            limits: Limits {
                side_multiple: 2 * scale_factor as u32,
                max_side: limits.max_side.min(side as u32),
                ..limits
            },
            preview: self.preview.clone(),
        }
    }

    fn generate(
        &mut self,
        job: &GenerateJob,
        sink: &mut dyn StepSink,
    ) -> Result<Generated, GenerateError> {
        let info = self.info();
        info.check(job)?;
        let started = Instant::now();
        let latents = self.denoise(&info, job, sink)?;
        let denoise = started.elapsed();

        let started = Instant::now();
        let picture = self.decode(&info, job, &latents)?;
        let decode = started.elapsed();
        let latents = job
            .return_latents
            .then(|| {
                proto::Tensor::from_f32(
                    &latents,
                    info.latent_shape(&job.params).to_vec(),
                    proto::DType::F32,
                )
            })
            .transpose()
            .map_err(|e| GenerateError::Backend(e.to_string()))?;
        Ok(Generated { picture, latents, denoise, decode })
    }

    fn loras(&self) -> Vec<ActiveLora> {
        self.loras.clone()
    }

    fn set_loras(&mut self, choices: &[LoraChoice]) -> Result<LoraReport, SetLorasError> {
        self.change_loras(choices)
    }
}

impl ZImage {
    /// The walk along the sigmas. Latents stay f32 on the host; only the model's input is rounded.
    fn denoise(
        &mut self,
        info: &ModelInfo,
        job: &GenerateJob,
        sink: &mut dyn StepSink,
    ) -> Result<Vec<f32>, GenerateError> {
        let params = &job.params;
        let shape = info.latent_shape(params);
        // Steps that a picture to draw from stands for.
        let first = if job.image.is_some() { params.first_step() } else { 0 };
        let total = params.scheduler.forwards(params.steps - first);
        let grid = sigmas(params.scheduler, params.steps, params.shift).split_off(first as usize);
        report(sink, Step { index: 0, total, duration: Duration::ZERO })?;
        let mut latents = self.start(job, shape, grid[0])?;

        self.dit.with(|dit| {
            let positive = condition(dit, &[&job.embeddings], shape)?;
            let both = match &job.negative_embeddings {
                Some(negative) if params.uses_guidance() => {
                    Some(condition(dit, &[&job.embeddings, negative], shape)?)
                }
                _ => None,
            };
            // The last sigma is where the walk ends.
            let times: Vec<f32> =
                grid.iter().take(grid.len() - 1).map(|sigma| (1.0 - sigma) as f32).collect();
            dit.prepare(&positive, &times)?;
            if let Some(both) = &both {
                dit.prepare(both, &times)?;
            }
            let mut solver = Solver::new(params.scheduler, grid);
            let mut index = 0;
            while let Some(sigma) = solver.sigma() {
                let started = Instant::now();
                let time = (1.0 - sigma) as f32;
                let prediction = match &both {
                    Some(both) if guidance::applies(params, time) => {
                        let outputs = forward(dit, &latents, shape, time, both)?;
                        guidance::combine(params, &outputs[0], &outputs[1])
                    }
                    _ => forward(dit, &latents, shape, time, &positive)?.swap_remove(0),
                };
                // The model predicts x0 - noise; the velocity points the other way.
                let velocity: Vec<f32> = prediction.iter().map(|v| -v).collect();
                index += 1;
                let guess = job
                    .preview
                    .is_some_and(|preview| preview.is_due(index))
                    .then(|| clean(&latents, &velocity, sigma));
                solver.advance(&mut latents, &velocity);
                let step = Step { index, total, duration: started.elapsed() };
                report(sink, step)?;
                if let Some(clean) = guess {
                    sink.guess(Guess { step, clean });
                }
            }
            Ok(latents)
        })
    }

    /// What the first step gets: noise, or a picture under as much noise as `sigma` says.
    fn start(
        &mut self,
        job: &GenerateJob,
        shape: [usize; 3],
        sigma: f64,
    ) -> Result<Vec<f32>, GenerateError> {
        let mut noise = Noise::new(job.params.seed);
        match (&job.latents, &job.image) {
            (Some(given), _) => Ok(given.to_f32()),
            (None, Some(image)) => self
                .autoencoder
                .encoder(|encoder| source_latents::noisy(encoder, image, shape, sigma, &mut noise)),
            (None, None) => Ok(noise.randn(shape.iter().product())),
        }
    }

    /// Latents to 8-bit pixels: `round(255 * clamp(x / 2 + 0.5, 0, 1))`.
    fn decode(
        &mut self,
        info: &ModelInfo,
        job: &GenerateJob,
        latents: &[f32],
    ) -> Result<Picture, GenerateError> {
        let config = self.autoencoder.config();
        let [channels, rows, cols] = info.latent_shape(&job.params);
        let z = Tensor::from_slice(latents, (1, channels, rows, cols), &Device::Cpu)?;
        let z = ((z / config.scaling_factor)? + config.shift_factor)?;
        let pixels =
            self.autoencoder.decoder(|decoder| Ok::<_, GenerateError>(decoder.decode(&z)?))?;
        let values = pixels.squeeze(0)?.permute((1, 2, 0))?.flatten_all()?.to_vec1::<f32>()?;
        if values.iter().any(|v| !v.is_finite()) {
            return Err(GenerateError::Backend(
                "the picture holds NaN or infinite values; a wider dtype may help (bf16 or f32)"
                    .into(),
            ));
        }
        let byte = |x: &f32| (255.0 * (x / 2.0 + 0.5).clamp(0.0, 1.0)).round_ties_even() as u8;
        Ok(Picture {
            width: job.params.width,
            height: job.params.height,
            rgb: values.iter().map(byte).collect(),
        })
    }
}

fn condition(
    dit: &Dit,
    captions: &[&proto::Tensor],
    shape: [usize; 3],
) -> Result<Conditioning, GenerateError> {
    let captions = captions
        .iter()
        .map(|c| Tensor::from_vec(c.to_f32(), c.shape(), &Device::Cpu))
        .collect::<candle_core::Result<Vec<_>>>()?;
    let sizes = vec![(shape[1], shape[2]); captions.len()];
    Ok(dit.condition(&captions, &sizes)?)
}

/// The same latents for every caption of the conditioning.
fn forward(
    dit: &Dit,
    latents: &[f32],
    shape: [usize; 3],
    time: f32,
    conditioning: &Conditioning,
) -> Result<Vec<Vec<f32>>, GenerateError> {
    let latents = Tensor::from_slice(latents, &shape[..], &Device::Cpu)?;
    let items = conditioning.items();
    let outputs = dit.forward(&vec![latents; items], &vec![time; items], conditioning)?;
    let host = |x: &Tensor| x.flatten_all()?.to_vec1::<f32>();
    Ok(outputs.iter().map(host).collect::<candle_core::Result<_>>()?)
}

/// Tells of a step, and whether to go on.
fn report(sink: &mut dyn StepSink, step: Step) -> Result<(), GenerateError> {
    match sink.step(step) {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(()) => Err(GenerateError::Cancelled),
    }
}

impl From<candle_core::Error> for GenerateError {
    fn from(error: candle_core::Error) -> Self {
        Self::Backend(error.to_string())
    }
}

impl From<LoadError> for GenerateError {
    fn from(error: LoadError) -> Self {
        Self::Backend(error.to_string())
    }
}
