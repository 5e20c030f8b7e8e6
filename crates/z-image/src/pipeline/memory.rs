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
            let needed = weights + denoise.max(decode);
            if needed > available {
                let (width, height) = (member.job.params.width, member.job.params.height);
                tracing::warn!(needed, available, width, height, "refused a job for its memory");
                let error = GenerateError::TooLarge { width, height, needed, available };
                member.finish(Err(error));
                continue;
            }
            match batches.last_mut().filter(|_| weights + taken + denoise <= available) {
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
