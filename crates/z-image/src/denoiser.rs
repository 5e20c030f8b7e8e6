//! The interface between the denoising loop and a transformer.

use candle_core::{Device, Result, Tensor};

use crate::dit::{Conditioning, Dit};

/// A model of the velocity along a trajectory. [`Dit`] is one; so is whatever computes the same in
/// another way: its blocks on several GPUs, or with steps whose residual is reused.
///
/// The loop drives one batch at a time from one thread, and knows nothing of weights or blocks.
pub trait Denoiser {
    /// What a batch's captions and sizes mean to every forward of the batch. Whatever has to be
    /// remembered from one step to the next belongs in it, so that no other batch can find it.
    type Conditioning;

    /// Where latents are uploaded to.
    fn device(&self) -> &Device;

    /// Conditions a batch: a caption `(tokens, cap_feat_dim)` and the latents' `(height, width)` of
    /// each item.
    ///
    /// # Errors
    ///
    /// For what the model cannot number, and when the device fails.
    fn condition(
        &self,
        captions: &[Tensor],
        sizes: &[(usize, usize)],
    ) -> Result<Self::Conditioning>;

    /// Computes ahead what depends on the time `1 - sigma` alone, for steps in which all items are at
    /// one time.
    ///
    /// # Errors
    ///
    /// When the device fails.
    fn prepare(&self, conditioning: &mut Self::Conditioning, times: &[f32]) -> Result<()>;

    /// One forward: f32 latents `(channels, height, width)` and the time `1 - sigma` of each item to
    /// each one's velocity `noise - x0`, of the same shape in f32.
    ///
    /// # Errors
    ///
    /// When the shapes are not those of the conditioning, and when the device fails. Nothing that the
    /// caller holds has changed then.
    fn velocity(
        &self,
        latents: &[Tensor],
        times: &[f32],
        conditioning: &mut Self::Conditioning,
    ) -> Result<Vec<Tensor>>;

    /// The model of the negative prompts, where it is another one: then a guided step asks both, one
    /// after the other. `None` where one forward is for all prompts.
    fn negative(&self) -> Option<&Self> {
        None
    }

    /// Gives back all memory that it holds besides weights, after a forward failed.
    fn reset(&self);
}

impl Denoiser for Dit {
    type Conditioning = Conditioning;

    fn device(&self) -> &Device {
        Self::device(self)
    }

    fn condition(&self, captions: &[Tensor], sizes: &[(usize, usize)]) -> Result<Conditioning> {
        Self::condition(self, captions, sizes)
    }

    fn prepare(&self, conditioning: &mut Conditioning, times: &[f32]) -> Result<()> {
        Self::prepare(self, conditioning, times)
    }

    fn velocity(
        &self,
        latents: &[Tensor],
        times: &[f32],
        conditioning: &mut Conditioning,
    ) -> Result<Vec<Tensor>> {
        // The model predicts x0 - noise; the velocity points the other way.
        self.forward(latents, times, conditioning)?.iter().map(Tensor::neg).collect()
    }

    fn negative(&self) -> Option<&Self> {
        Self::negative(self)
    }

    fn reset(&self) {
        self.forget();
    }
}
