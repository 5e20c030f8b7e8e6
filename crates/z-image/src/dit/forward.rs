//! A forward in three calls: embed, blocks `i..j`, project.
//!
//! [`Dit::forward`] runs all blocks as one range. A caller that cuts the range (to add a residual,
//! or to end a graph) gets the same tokens, without the gain of fusing the norms of two blocks at
//! the cut.

use std::ops::Range;

use candle_core::{D, DType, Result, Tensor};
use llm_dit_kernels::{Rope, layer_norm_scale};

use super::{
    Conditioning, Dit,
    block::Block,
    embed::{patchify, unpatchify},
    layout::Layout,
    modulation::Modulations,
};

/// eps of the last norm, which has no weights.
const FINAL_EPS: f64 = 1e-6;

/// All that a forward reads besides the weights.
pub struct Inputs<'a> {
    pub(super) layout: &'a Layout,
    /// `(channels, height, width)` an item.
    pub(super) latents: &'a [Tensor],
    pub(super) captions: &'a [Tensor],
    pub(super) image_rope: &'a Rope,
    pub(super) unified_rope: &'a Rope,
    pub(super) modulations: Modulations,
}

impl Dit {
    /// What the three calls of one forward read: latents `(channels, height, width)` and the time
    /// `1 - sigma` of each item.
    ///
    /// # Errors
    ///
    /// When the shapes are not those of the conditioning, and when the device fails.
    pub fn inputs<'a>(
        &self,
        latents: &'a [Tensor],
        times: &[f32],
        conditioning: &'a Conditioning,
    ) -> Result<Inputs<'a>> {
        conditioning.layout.check(latents, times.len())?;
        let modulations = conditioning.modulations.at(self, times)?;
        Ok(Inputs {
            layout: &conditioning.layout,
            latents,
            captions: &conditioning.captions,
            image_rope: &conditioning.image_rope,
            unified_rope: &conditioning.unified_rope,
            modulations,
        })
    }

    /// How many blocks [`Dit::blocks`] has.
    pub fn block_count(&self) -> usize {
        self.layers.len()
    }

    /// Patches the latents, refines their tokens and puts each item's caption behind them: packed
    /// `(tokens, dim)` in the transformer's dtype.
    ///
    /// # Errors
    ///
    /// When the device fails.
    pub fn embed(&self, inputs: &Inputs<'_>) -> Result<Tensor> {
        let layout = inputs.layout;
        let patches = inputs
            .latents
            .iter()
            .map(|x| patchify(&x.to_device(&self.device)?.to_dtype(self.dtype)?))
            .collect::<Result<Vec<_>>>()?;
        let embedded = self.x_embedder.forward(&Tensor::cat(&patches, 0)?)?;
        let lens = layout.image_lens();
        let x = pad_each(&embedded, &layout.image_tokens(), &lens, &self.x_pad_token)?;
        let modulation = inputs.modulations.blocks(self, 0..self.noise_refiner.len())?;
        let x = Block::stack(&self.noise_refiner, x, &modulation, inputs.image_rope, &lens)?;

        let images = split(&x, &lens)?;
        let captions = inputs.captions;
        let both: Vec<&Tensor> =
            images.iter().zip(captions).flat_map(|(image, caption)| [image, caption]).collect();
        Tensor::cat(&both, 0)
    }

    /// The blocks with these numbers, on packed tokens `(tokens, dim)` from [`Dit::embed`] or from the
    /// block before.
    ///
    /// # Errors
    ///
    /// When there are not that many blocks, and when the device fails.
    pub fn blocks(&self, numbers: Range<usize>, x: Tensor, inputs: &Inputs<'_>) -> Result<Tensor> {
        let Some(blocks) = self.layers.get(numbers.clone()) else {
            candle_core::bail!("blocks {numbers:?} of {}", self.layers.len());
        };
        let refiners = self.noise_refiner.len();
        let in_table = refiners + numbers.start..refiners + numbers.end;
        let modulation = inputs.modulations.blocks(self, in_table)?;
        Block::stack(blocks, x, &modulation, inputs.unified_rope, &inputs.layout.unified_lens())
    }

    /// The last block's tokens to `x0 - noise` of each item, f32 `(channels, height, width)`.
    ///
    /// # Errors
    ///
    /// When the device fails.
    pub fn project(&self, x: &Tensor, inputs: &Inputs<'_>) -> Result<Vec<Tensor>> {
        let layout = inputs.layout;
        split(x, &layout.unified_lens())?
            .iter()
            .enumerate()
            .map(|(item, x)| {
                // Only the image's own tokens are read.
                let (tokens, (height, width)) = (layout.image_tokens()[item], layout.size(item));
                let x = x.narrow(0, 0, tokens)?;
                let scale = inputs.modulations.last(self, item)?;
                let x = layer_norm_scale(&x, &scale, &[tokens], FINAL_EPS)?;
                let x = self.final_linear.forward(&x)?.to_dtype(DType::F32)?;
                unpatchify(&x, self.config.in_channels, height, width)
            })
            .collect()
    }

    /// See [`Self::forward`].
    pub(super) fn compute(&self, inputs: &Inputs<'_>) -> Result<Vec<Tensor>> {
        let x = self.embed(inputs)?;
        let x = self.blocks(0..self.block_count(), x, inputs)?;
        self.project(&x, inputs)
    }
}

/// Packed sequences of `tokens` each, filled up to `lens` each with the learned pad token.
pub(super) fn pad_each(
    x: &Tensor,
    tokens: &[usize],
    lens: &[usize],
    pad: &Tensor,
) -> Result<Tensor> {
    let width = x.dim(D::Minus1)?;
    let mut parts = Vec::with_capacity(2 * tokens.len());
    let mut start = 0;
    for (&tokens, &len) in tokens.iter().zip(lens) {
        parts.push(x.narrow(0, start, tokens)?);
        start += tokens;
        if len > tokens {
            parts.push(pad.broadcast_as((len - tokens, width))?.contiguous()?);
        }
    }
    Tensor::cat(&parts, 0)
}

/// Packed sequences as views, one an item.
pub(super) fn split(x: &Tensor, lens: &[usize]) -> Result<Vec<Tensor>> {
    let mut start = 0;
    lens.iter()
        .map(|&len| {
            let part = x.narrow(0, start, len);
            start += len;
            part
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use llm_dit_proto as proto;

    use super::*;
    use crate::load_dit;

    fn values(outputs: &[Tensor]) -> Vec<Vec<f32>> {
        let values = |x: &Tensor| x.flatten_all()?.to_vec1::<f32>();
        outputs.iter().map(values).collect::<Result<_>>().expect("f32 outputs")
    }

    /// Two items of different sizes and captions.
    fn with_batch(dtype: proto::DType, test: impl FnOnce(&Dit, &Inputs<'_>)) {
        let tiny =
            Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/goldens/tiny/transformer");
        let dit = load_dit(&tiny, &candle_core::Device::Cpu, Some(dtype)).expect("tiny model");
        let noise = |seed, shape: &[usize]| {
            let values = crate::noise::Noise::new(seed).randn(shape.iter().product());
            Tensor::from_vec(values, shape, &candle_core::Device::Cpu).expect("noise")
        };
        let captions = [noise(1, &[3, 40]), noise(2, &[40, 40])];
        let latents = [noise(3, &[16, 4, 4]), noise(4, &[16, 8, 4])];
        let conditioning = dit.condition(&captions, &[(4, 4), (8, 4)]).expect("captions");
        let inputs = dit.inputs(&latents, &[0.25, 0.75], &conditioning).expect("shapes");
        test(&dit, &inputs);
    }

    #[test]
    fn three_calls_are_a_forward_wherever_the_blocks_are_cut() {
        for dtype in [proto::DType::F32, proto::DType::Bf16] {
            with_batch(dtype, |dit, inputs| {
                let whole = values(&dit.compute(inputs).expect("a forward"));
                let count = dit.block_count();
                assert!(count > 1, "one block cannot be cut");
                for cut in 0..=count {
                    let x = dit.embed(inputs).expect("tokens");
                    let x = dit.blocks(0..cut, x, inputs).expect("the first blocks");
                    let x = dit.blocks(cut..count, x, inputs).expect("the other blocks");
                    let made = values(&dit.project(&x, inputs).expect("latents"));
                    assert_eq!(made, whole, "cut at {cut} of {count} in {dtype:?}");
                }
            });
        }
    }

    #[test]
    fn a_residual_can_enter_between_blocks() {
        with_batch(proto::DType::F32, |dit, inputs| {
            let whole = values(&dit.compute(inputs).expect("a forward"));
            let count = dit.block_count();
            let before = dit.embed(inputs).expect("tokens");
            let after = dit.blocks(0..count, before.clone(), inputs).expect("all blocks");
            // What a step cache keeps, and adds in place of the blocks.
            let residual = (&after - &before).expect("same shape");
            let x = (before + residual).expect("same shape");
            let reused = values(&dit.project(&x, inputs).expect("latents"));
            let largest = whole.iter().zip(&reused).flat_map(|(a, b)| a.iter().zip(b));
            let largest = largest.map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            assert!(largest < 1e-4, "{largest}");
        });
    }

    #[test]
    fn blocks_that_are_not_there_are_refused() {
        with_batch(proto::DType::F32, |dit, inputs| {
            let x = dit.embed(inputs).expect("tokens");
            let error = dit.blocks(0..99, x, inputs).expect_err("99 blocks").to_string();
            assert!(error.contains("0..99"), "{error}");
        });
    }
}
