//! What a picture takes on the host beside the weights, computed before it is begun: on the host a
//! full memory ends the process, where a GPU's allocator returns an error.
//!
//! The counts follow the kernels for the CPU: they compute in f32 and widen what has another type for
//! as long as they read it.

use candle_core::{DType, Device};
use llm_dit_device::available_memory;
use llm_dit_engine::image::{CheckedJob, GenerateError, Member, ModelInfo};

use super::ZImage;
use crate::dit;

const F32: u64 = 4;

/// Scratch of the kernels' threads, the picture's bytes and its file, and what the allocator does not
/// use: at most so much more was measured than is counted below, from 64x64 to 1536x1536.
const OVERHEAD: u64 = 80 << 20;

/// Bytes at the widest place of a transformer block, for so many tokens of all items together.
pub(super) fn transformer_bytes(config: &dit::Config, dtype: DType, tokens: u64) -> u64 {
    let (dim, ffn) = (config.dim as u64, config.ffn_dim() as u64);
    let value = dtype.size_in_bytes() as u64;
    // The sum so far and its norm before and after the attention, and the attention's result.
    let held = 5 * dim * value;
    if dtype == DType::F32 {
        // Gates, ups, and their product.
        return tokens * (held + 3 * ffn * F32);
    }
    // The widened input, weight and result of the layer that makes gates and ups; or those and their
    // product, both in either width.
    let product = tokens * (held + dim * F32 + 2 * ffn * F32) + 2 * ffn * dim * F32;
    let gated = tokens * (held + 2 * ffn * (value + F32) + ffn * F32);
    product.max(gated)
}

impl ZImage {
    /// Answers those that the memory does not suffice for, and returns the others in batches that it
    /// suffices for one after the other.
    pub(super) fn admit<'a>(
        &self,
        info: &ModelInfo,
        batch: Vec<Member<'a>>,
    ) -> Vec<Vec<Member<'a>>> {
        match available_memory().filter(|_| self.is_on_host()) {
            Some(available) => self.admit_within(info, batch, available),
            None => vec![batch],
        }
    }

    pub(super) fn admit_within<'a>(
        &self,
        info: &ModelInfo,
        batch: Vec<Member<'a>>,
        available: u64,
    ) -> Vec<Vec<Member<'a>>> {
        let weights = self.missing_weights();
        let mut batches: Vec<Vec<Member<'a>>> = Vec::new();
        let mut taken = 0;
        for member in batch {
            let denoise = self.denoise_bytes(info, member.job);
            let decode = self.decode_bytes(member.job);
            let needed = weights + OVERHEAD + denoise.max(decode);
            if needed > available {
                let (width, height) = (member.job.params.width, member.job.params.height);
                tracing::warn!(needed, available, width, height, "refused a job for its memory");
                let error = GenerateError::TooLarge { width, height, needed, available };
                member.finish(Err(error));
                continue;
            }
            match batches.last_mut().filter(|_| weights + OVERHEAD + taken + denoise <= available) {
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

    /// Bytes of weights that are still to be loaded.
    fn missing_weights(&self) -> u64 {
        use llm_dit_engine::image::ImageGenerator as _;
        match (self.dit.device(), self.autoencoder.device()) {
            (Device::Cpu, Device::Cpu) => self.weight_bytes().saturating_sub(self.loaded_bytes()),
            (Device::Cpu, _) => self.dit.weight_bytes().saturating_sub(self.dit.loaded_bytes()),
            _ => 0,
        }
    }

    fn denoise_bytes(&self, info: &ModelInfo, job: &CheckedJob) -> u64 {
        if !self.dit.device().is_cpu() {
            return 0;
        }
        let [_, rows, columns] = info.latent_shape(&job.params);
        let image = (rows / dit::PATCH) * (columns / dit::PATCH);
        let padded = |tokens: usize| tokens.next_multiple_of(dit::MULTIPLE) as u64;
        let sequence = |caption: &llm_dit_proto::Tensor| padded(image) + padded(caption.shape()[0]);
        let captions = [Some(&job.embeddings), job.negative_embeddings.as_ref()];
        let tokens = captions.into_iter().flatten().map(sequence).sum();
        transformer_bytes(self.dit.config(), self.dit.dtype(), tokens)
    }

    /// Of the VAE; what it takes to encode a picture to draw from is less.
    fn decode_bytes(&self, job: &CheckedJob) -> u64 {
        if !self.autoencoder.device().is_cpu() {
            return 0;
        }
        self.autoencoder.decode_bytes(job.params.height as usize, job.params.width as usize)
    }
}

#[cfg(test)]
mod tests {
    use std::{cell::RefCell, ops::ControlFlow, path::Path};

    use llm_dit_engine::image::{GenerateJob, ImageGenerator as _, Step};
    use llm_dit_params::GenerateOptions;
    use llm_dit_proto as proto;

    use super::*;
    use crate::{
        DiffusionOptions, load_model,
        vae::{self, Tiling},
    };

    const GIB: f64 = (1u64 << 30) as f64;

    #[test]
    fn the_released_model_takes_what_its_shapes_say() {
        let transformer = |dtype, tokens: u64| {
            transformer_bytes(&dit::Config::z_image(), dtype, tokens) as f64 / GIB
        };
        let vae = |tiling: Tiling, side: usize| {
            tiling.decode_bytes(&vae::Config::z_image(), DType::F32, (side, side)) as f64 / GIB
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
                return_latents: false,
                preview: None,
            };
            info.check(job).expect("valid")
        };
        let jobs = [job(64), job(256), job(64), job(64)];
        let weights = model.missing_weights();
        let small = model.denoise_bytes(&info, &jobs[0]).max(model.decode_bytes(&jobs[0]));
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
        let batches = model.admit_within(&info, members.collect(), available);
        let fitting = ((available - weights - OVERHEAD) / denoise) as usize;
        assert_eq!(batches.iter().map(Vec::len).sum::<usize>(), 3);
        assert!(batches.iter().all(|batch| batch.len() <= fitting));
        let said = refused.borrow().clone();
        assert!(matches!(&said[..], [one] if one.contains("256x256") && one.contains("MiB")));
        drop(batches);
        model.unload();
        let without = model.missing_weights();
        assert!(without > weights, "weights that are to be loaded count");
    }
}
