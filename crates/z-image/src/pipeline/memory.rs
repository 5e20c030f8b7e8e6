//! What an image takes beside the weights, computed before it is begun: on the host a full memory ends
//! the process, and on a GPU a plan is kept to.

use candle_core::Device;
use llm_dit_device::{available_memory, meter};
use llm_dit_engine::image::{CheckedJob, GenerateError, ImageGenerator as _, Member, ModelInfo};
use llm_dit_params::GenerateParams;
use llm_dit_weights::{DeviceBudget, HOST_OVERHEAD as OVERHEAD, Residency, overhead};

use super::ZImage;
use crate::{dit, vae::Cost, work::transformer_bytes};

/// Memory that a batch may take, and what of it is taken by weights.
#[derive(Clone, Copy, Debug)]
struct Room {
    available: u64,
    /// Of the weights, bytes that are counted while the batch is denoised, and while it is decoded.
    weights: [u64; 2],
    /// Whether the transformer, and the VAE, compute in this memory.
    computes: [bool; 2],
    /// Whether what a forward takes is taken until the images are decoded.
    keeps: bool,
}

impl ZImage {
    /// Answers those that the memory does not suffice for, and returns the others in batches that it
    /// suffices for one after the other.
    pub(super) fn admit<'a>(
        &self,
        info: &ModelInfo,
        batch: Vec<Member<'a>>,
    ) -> Vec<Vec<Member<'a>>> {
        let host = available_memory().filter(|_| self.is_on_host());
        let host = host.map(|available| self.host_room(available));
        let planned = self.budget.map(|budget| self.planned_room(budget));
        let rooms: Vec<Room> = host.into_iter().chain(planned).collect();
        self.admit_within(info, batch, &rooms)
    }

    fn admit_within<'a>(
        &self,
        info: &ModelInfo,
        batch: Vec<Member<'a>>,
        rooms: &[Room],
    ) -> Vec<Vec<Member<'a>>> {
        let mut batches: Vec<Vec<Member<'a>>> = Vec::new();
        let mut taken = 0;
        for member in batch {
            let denoise = self.denoise_bytes(info, member.job);
            let decode = self.least_decode_bytes(&member.job.params);
            let needed = |room: &Room, denoise| room.needed(denoise, decode);
            if let Some(room) = rooms.iter().find(|room| needed(room, denoise) > room.available) {
                let (needed, available) = (needed(room, denoise), room.available);
                let (width, height) = (member.job.params.width, member.job.params.height);
                tracing::warn!(needed, available, width, height, "refused a job for its memory");
                let error = GenerateError::TooLarge { width, height, needed, available };
                member.finish(Err(error));
                continue;
            }
            let fits = rooms.iter().all(|room| needed(room, taken + denoise) <= room.available);
            match batches.last_mut().filter(|_| fits) {
                Some(last) => last.push(member),
                None => {
                    taken = 0;
                    batches.push(vec![member]);
                }
            }
            taken += denoise;
        }
        batches
    }

    fn is_on_host(&self) -> bool {
        self.dit.device().is_cpu() || self.autoencoder.device().is_cpu()
    }

    /// The system's memory, of which weights that are loaded have theirs.
    fn host_room(&self, available: u64) -> Room {
        let weights = OVERHEAD + self.missing_weights();
        let computes = [self.dit.device().is_cpu(), self.autoencoder.device().is_cpu()];
        Room { available, weights: [weights; 2], computes, keeps: false }
    }

    /// What was planned for the transformer's device.
    fn planned_room(&self, budget: DeviceBudget) -> Room {
        let device = self.dit.device();
        let shared = self.autoencoder.device().same_device(device);
        let dit = self.dit.weight_bytes();
        let vae = if shared { self.autoencoder.weight_bytes() } else { 0 };
        let stays = self.residency == Residency::Always;
        Room {
            available: budget.limit.saturating_sub(budget.others),
            weights: if stays { [dit + vae; 2] } else { [dit, vae] },
            computes: [true, shared],
            keeps: stays && !device.is_cpu(),
        }
    }

    /// Bytes of weights that are still to be loaded.
    fn missing_weights(&self) -> u64 {
        match (self.dit.device(), self.autoencoder.device()) {
            (Device::Cpu, Device::Cpu) => self.weight_bytes().saturating_sub(self.loaded_bytes()),
            (Device::Cpu, _) => self.dit.weight_bytes().saturating_sub(self.dit.loaded_bytes()),
            _ => 0,
        }
    }

    fn denoise_bytes(&self, info: &ModelInfo, job: &CheckedJob) -> u64 {
        let [_, rows, columns] = info.latent_shape(&job.params);
        let image = (rows / dit::PATCH) * (columns / dit::PATCH);
        let padded = |tokens: usize| tokens.next_multiple_of(dit::MULTIPLE) as u64;
        let sequence = |caption: &llm_dit_proto::Tensor| padded(image) + padded(caption.shape()[0]);
        let captions = [Some(&job.embeddings), job.negative_embeddings.as_ref()];
        let tokens = captions.into_iter().flatten().map(sequence).sum();
        let (config, dtype) = (self.dit.config(), self.dit.dtype());
        transformer_bytes(config, Cost::new(self.dit.device(), dtype, 1), dtype, tokens)
    }

    /// Of the VAE; what it takes to encode an init image is less.
    fn least_decode_bytes(&self, params: &GenerateParams) -> u64 {
        self.autoencoder.decode_bytes(params.height as usize, params.width as usize, 0)
    }

    /// Bytes that the VAE may take now beside its weights.
    pub fn vae_budget(&self) -> u64 {
        let device = self.autoencoder.device();
        let missing = self.autoencoder.weight_bytes() - self.autoencoder.loaded_bytes();
        let free = meter::available(device)
            .map_or(u64::MAX, |free| free.saturating_sub(overhead(device) + missing));
        match self.budget.filter(|_| device.same_device(self.dit.device())) {
            Some(budget) => free.min(budget.limit.saturating_sub(self.taken(budget) + missing)),
            None => free,
        }
    }

    /// [`Self::vae_budget`]; without captured graphs, if an image could not be decoded otherwise.
    pub(super) fn decode_budget(&mut self, params: &GenerateParams) -> u64 {
        if self.least_decode_bytes(params) > self.vae_budget() {
            self.dit.forget();
        }
        self.vae_budget()
    }

    /// Lets go of what forwards of other shapes left on the device, if a batch has no room beside it.
    pub(super) fn make_room(&mut self, info: &ModelInfo, batch: &[Member<'_>]) {
        let Some(budget) = self.budget.filter(|_| !self.dit.device().is_cpu()) else { return };
        let work: u64 = batch.iter().map(|member| self.denoise_bytes(info, member.job)).sum();
        let missing = self.dit.weight_bytes() - self.dit.loaded_bytes();
        if self.taken(budget) + missing + work > budget.limit {
            self.dit.forget();
        }
    }

    /// Bytes of the transformer's device that this process has taken: measured, where the device
    /// tells it.
    fn taken(&self, budget: DeviceBudget) -> u64 {
        let device = self.dit.device();
        match meter::memory(device).filter(|_| !device.is_cpu()) {
            Some(memory) => memory.used + budget.overhead,
            None => budget.others + self.loaded_bytes(),
        }
    }
}

impl Room {
    /// Bytes of a batch and of the image of it that is decoded.
    fn needed(&self, denoise: u64, decode: u64) -> u64 {
        let [denoised, decoded] = self.weights;
        let denoise = if self.computes[0] { denoise } else { 0 };
        let decode = if self.computes[1] { decode } else { 0 };
        let kept = if self.keeps { denoise } else { 0 };
        (denoised + denoise).max(decoded + kept + decode)
    }
}

#[cfg(test)]
mod tests {
    use std::{cell::RefCell, ops::ControlFlow, path::Path};

    use llm_dit_engine::image::{GenerateJob, Step};
    use llm_dit_params::GenerateOptions;
    use llm_dit_proto as proto;

    use super::*;
    use candle_core::DType;

    use crate::{
        DiffusionOptions, load_model,
        vae::{self, Tiling},
    };

    const GIB: f64 = (1u64 << 30) as f64;

    #[test]
    fn the_released_model_takes_what_its_shapes_say() {
        let transformer = |dtype, tokens: u64| {
            let cost = Cost::new(&Device::Cpu, dtype, 1);
            transformer_bytes(&dit::Config::z_image(), cost, dtype, tokens) as f64 / GIB
        };
        let vae = |tiling: Tiling, side: usize| {
            let cost = Cost::new(&Device::Cpu, DType::F32, 1);
            let bytes = tiling.decode_bytes(&vae::Config::z_image(), cost, (side, side), 0);
            bytes as f64 / GIB
        };
        // 1024x1024 with a caption of 64 tokens, in GiB.
        let close = |value: f64, expected: f64| {
            assert!((value - expected).abs() < 0.005, "{value} GiB, expected {expected}");
        };
        close(transformer(DType::F32, 4096 + 64), 0.774);
        close(transformer(DType::BF16, 4096 + 64), 0.818);
        close(vae(Tiling::Off, 1024), 2.5);
        close(vae(Tiling::Off, 2048), 10.0);
        close(vae(Tiling::On, 2048), 2.594);
    }

    #[test]
    fn what_the_memory_does_not_suffice_for_is_refused_and_the_rest_goes_in_smaller_batches() {
        let model_path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/demo");
        let mut model =
            load_model(&DiffusionOptions { model_path, ..Default::default() }).expect("loads");
        let info = model.info();
        let job = |side: u32| {
            let options =
                GenerateOptions { width: Some(side), height: Some(side), ..Default::default() };
            let shape = vec![9, info.cap_feat_dim];
            let values = vec![0.0; shape.iter().product()];
            let embeddings = proto::Tensor::from_f32(&values, shape, proto::DType::F32);
            let job = GenerateJob {
                params: options.resolve(&info.defaults, &info.limits).expect("valid"),
                loras: Vec::new(),
                embeddings: embeddings.expect("as the shape says"),
                negative_embeddings: None,
                latents: None,
                image: None,
                mask: None,
                return_latents: false,
                preview: None,
            };
            info.check(job).expect("valid")
        };
        let jobs = [job(64), job(256), job(64), job(64)];
        let weights = model.missing_weights();
        let small =
            model.denoise_bytes(&info, &jobs[0]).max(model.least_decode_bytes(&jobs[0].params));
        let denoise = model.denoise_bytes(&info, &jobs[0]);
        let available = weights + OVERHEAD + small.max(2 * denoise);
        let refused = RefCell::new(Vec::new());
        let members = jobs.iter().map(|job| {
            let refused = &refused;
            let done = move |made: Result<_, GenerateError>| {
                refused.borrow_mut().extend(made.err().map(|error| error.to_string()));
            };
            Member::new(job, |_: Step| ControlFlow::Continue(()), done)
        });
        let batches = model.admit_within(&info, members.collect(), &[model.host_room(available)]);
        let fitting = ((available - weights - OVERHEAD) / denoise) as usize;
        assert_eq!(batches.iter().map(Vec::len).sum::<usize>(), 3);
        assert!(batches.iter().all(|batch| batch.len() <= fitting));
        let said = refused.borrow().clone();
        assert!(matches!(&said[..], [one] if one.contains("256x256") && one.contains("MiB")));
        drop(batches);
        // The same memory as a limit, of which the weights take their part.
        let mut room = model.host_room(available);
        let budget = DeviceBudget {
            limit: available + model.weight_bytes(),
            others: OVERHEAD,
            overhead: OVERHEAD,
        };
        let planned = model.planned_room(budget);
        assert_eq!(planned.available - planned.weights[0], room.available - room.weights[0]);
        assert_eq!(planned.needed(7, 0) - planned.weights[0], 7);
        (room.keeps, room.weights) = (true, [0, 0]);
        assert_eq!(room.needed(7, 5), 12, "a GPU keeps captured graphs");
        model.unload();
        let without = model.missing_weights();
        assert!(without > weights, "weights that are to be loaded count");
    }
}
