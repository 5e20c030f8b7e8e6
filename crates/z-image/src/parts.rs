//! The parts of the model, each on its device always or only while it computes.

use std::sync::Arc;

use candle_core::{DType, Device, Tensor};
use llm_dit_weights::{LoadError, Overlay, Precision, Residency, Resident, Weights};

use crate::{
    dit::{self, Dit},
    vae::{self, Cost, Tiling},
};

/// The transformer.
pub struct Transformer {
    config: dit::Config,
    device: Device,
    weights: Weights,
    dit: Resident<Dit>,
    /// The changes as they were asked for. What the weights have may be [the same in one
    /// pass](Overlay::in_one_pass).
    overlay: Arc<Overlay>,
}

/// Both halves of the VAE. Most requests bring no picture to encode, so that half is read when the
/// first one does.
pub struct Autoencoder {
    config: vae::Config,
    decoder: Resident<vae::Decoder>,
    encoder: Resident<vae::Encoder>,
    tiling: Tiling,
    /// Of both halves.
    bytes: u64,
    device: Device,
    dtype: DType,
}

/// When a part that is to stay is loaded first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Load {
    /// With the model, so that a broken file is known at once.
    #[default]
    AtStart,
    /// For the first use.
    OnUse,
}

impl Load {
    fn resident<T>(
        self,
        residency: Residency,
        load: impl Fn() -> Result<T, LoadError> + Send + 'static,
    ) -> Result<Resident<T>, LoadError> {
        match self {
            Self::AtStart => Resident::new(residency, load),
            Self::OnUse => Ok(Resident::lazy(residency, load)),
        }
    }
}

impl Transformer {
    pub fn new(
        residency: Residency,
        when: Load,
        config: dit::Config,
        weights: Weights,
        device: Device,
    ) -> Result<Self, LoadError> {
        let dit = when.resident(residency, loader(&config, &weights))?;
        let overlay = Arc::clone(weights.overlay());
        Ok(Self { config, device, weights, dit, overlay })
    }

    pub fn config(&self) -> &dit::Config {
        &self.config
    }

    pub fn device(&self) -> &Device {
        &self.device
    }

    /// Of activations.
    pub fn dtype(&self) -> DType {
        self.weights.dtype()
    }

    pub fn precision(&self) -> Precision {
        self.weights.precision()
    }

    /// Does something with it, and then lets it go if it is not to stay.
    pub fn with<T, E: From<LoadError>>(
        &mut self,
        work: impl FnOnce(&Dit) -> Result<T, E>,
    ) -> Result<T, E> {
        let done = self.dit.get().map_err(E::from).and_then(|dit| work(dit));
        self.dit.release();
        done
    }

    /// Gives back what it holds besides its weights.
    pub fn forget(&mut self) {
        if let Some(dit) = self.dit.loaded() {
            dit.forget();
        }
    }

    /// Bytes that it takes when it is loaded.
    pub fn weight_bytes(&self) -> u64 {
        self.weights.loaded_bytes()
    }

    /// Bytes that it takes now.
    pub fn loaded_bytes(&self) -> u64 {
        self.dit.loaded().map_or(0, |_| self.weight_bytes())
    }

    /// Gives its memory back. It is loaded again for the next use, with its LoRAs.
    pub fn unload(&mut self) {
        self.dit.unload();
    }

    /// What is on top of the checkpoint.
    pub fn overlay(&self) -> &Arc<Overlay> {
        &self.overlay
    }

    /// See [`Dit::set_overlay`].
    pub fn set_overlay(&mut self, overlay: Arc<Overlay>) -> Result<(), LoadError> {
        let done = self.dit.get().and_then(|dit| dit.set_overlay(Arc::clone(&overlay)));
        if done.is_ok() {
            self.overlay = Arc::clone(&overlay);
            self.take_over(overlay);
        }
        self.dit.release();
        done
    }

    /// Makes it ready for pictures with guidance, or for those without: these have one pass, so that a
    /// change for positive prompts only is one like all others.
    pub fn set_guided(&mut self, guided: bool) -> Result<(), LoadError> {
        if !self.overlay.has_two_passes() || self.weights.overlay().has_two_passes() == guided {
            return Ok(());
        }
        let overlay = match guided {
            true => Arc::clone(&self.overlay),
            false => Arc::new(self.overlay.in_one_pass()),
        };
        tracing::debug!(guided, "changing which passes the LoRAs are in");
        if let Some(dit) = self.dit.loaded_mut() {
            dit.set_overlay(Arc::clone(&overlay))?;
        }
        self.take_over(overlay);
        Ok(())
    }

    /// From now on it is loaded with these changes.
    fn take_over(&mut self, overlay: Arc<Overlay>) {
        self.weights = self.weights.with_overlay(overlay);
        self.dit.load_with(loader(&self.config, &self.weights));
    }
}

fn loader(
    config: &dit::Config,
    weights: &Weights,
) -> impl Fn() -> Result<Dit, LoadError> + Send + 'static {
    let (config, weights) = (config.clone(), weights.clone());
    move || Dit::load(config.clone(), &weights)
}

impl Autoencoder {
    pub fn new(
        residency: Residency,
        when: Load,
        config: vae::Config,
        weights: Weights,
        tiling: Tiling,
    ) -> Result<Self, LoadError> {
        let bytes = weights.loaded_bytes();
        let (device, dtype) = (weights.device().clone(), weights.dtype());
        let encoder = {
            let (config, weights) = (config.clone(), weights.clone());
            Resident::lazy(residency, move || vae::Encoder::load(config.clone(), &weights))
        };
        let decoder = {
            let config = config.clone();
            when.resident(residency, move || vae::Decoder::load(config.clone(), &weights))?
        };
        Ok(Self { config, decoder, encoder, tiling, bytes, device, dtype })
    }

    pub fn config(&self) -> &vae::Config {
        &self.config
    }

    /// The device on which it computes.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// Bytes that it takes on its device beside the weights to decode an image of this height and
    /// width with `budget` bytes, or more if those do not suffice.
    pub fn decode_bytes(&self, height: usize, width: usize, budget: u64) -> u64 {
        let cost = Cost::new(&self.device, self.dtype, 1);
        self.tiling.decode_bytes(&self.config, cost, (height, width), budget)
    }

    /// How it takes large images.
    pub fn tiling(&self) -> Tiling {
        self.tiling
    }

    /// Bytes that both halves take when they are loaded.
    pub fn weight_bytes(&self) -> u64 {
        self.bytes
    }

    /// Bytes that may be taken now: a half counts as both.
    pub fn loaded_bytes(&self) -> u64 {
        let loaded = self.decoder.loaded().is_some() || self.encoder.loaded().is_some();
        if loaded { self.bytes } else { 0 }
    }

    /// Gives the memory of both halves back. They are loaded again for the next use.
    pub fn unload(&mut self) {
        self.decoder.unload();
        self.encoder.unload();
    }

    /// Does something with the half that makes pictures, and then lets it go if it is not to stay.
    pub fn decoder<T, E: From<LoadError>>(
        &mut self,
        work: impl FnOnce(&vae::Decoder) -> Result<T, E>,
    ) -> Result<T, E> {
        let done = self.decoder.get().map_err(E::from).and_then(|decoder| work(decoder));
        self.decoder.release();
        done
    }

    /// Latents `(n, channels, height, width)`, as [`vae::Decoder::decode`] wants them, to pictures,
    /// with `budget` bytes beside the weights.
    pub fn decode<E: From<LoadError> + From<candle_core::Error>>(
        &mut self,
        z: &Tensor,
        budget: u64,
    ) -> Result<Tensor, E> {
        let tiling = self.tiling;
        self.decoder(|decoder| Ok(tiling.decode(decoder, z, budget)?))
    }

    /// Pictures to what [`vae::Encoder::encode`] makes of them, likewise.
    pub fn encode<E: From<LoadError> + From<candle_core::Error>>(
        &mut self,
        pictures: &Tensor,
        budget: u64,
    ) -> Result<vae::Posterior, E> {
        let tiling = self.tiling;
        let encoder = self.encoder.get().map_err(E::from);
        let posterior = encoder.and_then(|encoder| Ok(tiling.encode(encoder, pictures, budget)?));
        self.encoder.release();
        posterior
    }
}
