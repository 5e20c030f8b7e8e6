//! Changes the weights of a loaded transformer, one part at a time.
//!
//! A part is loaded beside the one that it replaces, so no more than one block is in memory twice.

use std::{collections::BTreeSet, sync::Arc};

use llm_dit_weights::{LoadError, Overlay, Weights};

use super::{Dit, block::Block, embed::TimestepEmbedder};

/// A part that is replaced at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Part {
    XEmbedder,
    CapEmbedder,
    Pads,
    TEmbedder,
    FinalLayer,
    NoiseRefiner(usize),
    ContextRefiner(usize),
    Layer(usize),
}

impl Dit {
    /// Replaces the overlay on the checkpoint. Only parts that have changes in the old or the new
    /// overlay are read again; without changes they equal the checkpoint bit for bit. If a part
    /// cannot be loaded, the old overlay stays.
    ///
    /// # Errors
    ///
    /// [`LoadError`] if a part cannot be loaded.
    pub fn set_overlay(&mut self, overlay: Arc<Overlay>) -> Result<(), LoadError> {
        let before = self.weights.clone();
        let parts: Vec<Part> = if self.settled {
            let touched = [&**before.overlay(), &*overlay];
            let parts: BTreeSet<Part> =
                touched.into_iter().flat_map(Overlay::tensors).filter_map(Part::of).collect();
            parts.into_iter().collect()
        } else {
            self.parts()
        };
        // They read the weights that are about to go.
        self.graphs.clear();
        self.negative = None;
        // Until all are done: this holds when loading panics, too.
        self.settled = false;
        let after = before.with_overlay(overlay);
        let mut done = 0;
        let changed: Result<(), LoadError> = parts.iter().try_for_each(|&part| {
            self.reload(part, &after)?;
            done += 1;
            Ok(())
        });
        if let Err(error) = changed.and_then(|()| self.load_negative(&after)) {
            let part = parts.get(done);
            tracing::warn!(%error, ?part, "changing the weights failed; reverting");
            for &part in &parts[..done] {
                self.reload(part, &before)?;
            }
            self.load_negative(&before)?;
            self.settled = true;
            return Err(error);
        }
        self.weights = after;
        self.settled = true;
        self.weights.done()
    }

    /// Loads the parts of which tensors with these names are.
    pub(super) fn reload_those<'t>(
        &mut self,
        tensors: impl Iterator<Item = &'t str>,
        weights: &Weights,
    ) -> Result<(), LoadError> {
        let parts = tensors.filter_map(Part::of);
        let parts = parts.collect::<BTreeSet<Part>>();
        parts.into_iter().try_for_each(|part| self.reload(part, weights))
    }

    /// The overlay on the checkpoint.
    pub fn overlay(&self) -> &Arc<Overlay> {
        self.weights.overlay()
    }

    /// Refuses to compute with weights of which only some were changed.
    pub(super) fn check_settled(&self) -> candle_core::Result<()> {
        if self.settled {
            return Ok(());
        }
        candle_core::bail!("a LoRA change failed midway; clear or apply LoRAs again")
    }

    fn parts(&self) -> Vec<Part> {
        [Part::XEmbedder, Part::CapEmbedder, Part::Pads, Part::TEmbedder, Part::FinalLayer]
            .into_iter()
            .chain((0..self.noise_refiner.len()).map(Part::NoiseRefiner))
            .chain((0..self.context_refiner.len()).map(Part::ContextRefiner))
            .chain((0..self.layers.len()).map(Part::Layer))
            .collect()
    }

    fn reload(&mut self, part: Part, weights: &Weights) -> Result<(), LoadError> {
        let config = &self.config;
        let block = |stack: &str, i: usize, modulated: bool| {
            Block::load(config, modulated, &weights.pp(stack).pp(i))
        };
        match part {
            Part::XEmbedder => self.x_embedder = Self::load_x_embedder(config, weights)?,
            Part::CapEmbedder => {
                let (norm, linear) = Self::load_cap_embedder(config, weights)?;
                (self.cap_norm, self.cap_embedder) = (norm, linear);
            }
            Part::Pads => {
                (self.x_pad_token, self.cap_pad_token) = Self::load_pads(config, weights)?;
            }
            Part::TEmbedder => {
                let at = weights.pp("t_embedder");
                self.t_embedder = TimestepEmbedder::load(config.adaln_dim(), config.t_scale, &at)?;
            }
            Part::FinalLayer => {
                let (modulation, linear) = Self::load_final_layer(config, weights)?;
                (self.final_modulation, self.final_linear) = (modulation, linear);
            }
            Part::NoiseRefiner(i) => self.noise_refiner[i] = block("noise_refiner", i, true)?,
            Part::ContextRefiner(i) => {
                self.context_refiner[i] = block("context_refiner", i, false)?
            }
            Part::Layer(i) => self.layers[i] = block("layers", i, true)?,
        }
        Ok(())
    }
}

impl Part {
    /// The part that a tensor belongs to, if it is one that changes.
    fn of(tensor: &str) -> Option<Self> {
        let mut names = tensor.split('.');
        let first = names.next()?;
        let second = names.next();
        let index = || second?.parse().ok();
        Some(match first {
            "x_pad_token" | "cap_pad_token" => Self::Pads,
            "all_x_embedder" => Self::XEmbedder,
            "cap_embedder" => Self::CapEmbedder,
            "t_embedder" => Self::TEmbedder,
            "all_final_layer" => Self::FinalLayer,
            "noise_refiner" => Self::NoiseRefiner(index()?),
            "context_refiner" => Self::ContextRefiner(index()?),
            "layers" => Self::Layer(index()?),
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use candle_core::{Device, Tensor};
    use llm_dit_proto::DType;

    use super::*;
    use crate::{dit::tensors, load_dit};

    /// As after a panic between two parts.
    #[test]
    fn a_change_that_broke_off_is_not_drawn_with_and_the_next_one_mends_it() {
        let tiny =
            Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/goldens/tiny/transformer");
        let mut dit = load_dit(&tiny, &Device::Cpu, Some(DType::F32)).expect("the tiny model");
        let caption = Tensor::ones((3, 40), candle_core::DType::F32, &Device::Cpu).expect("ones");
        let latents =
            Tensor::ones((16, 4, 4), candle_core::DType::F32, &Device::Cpu).expect("ones");
        let draw = |dit: &Dit| {
            let conditioning = dit.condition(std::slice::from_ref(&caption), &[(4, 4)])?;
            let out = dit.forward(std::slice::from_ref(&latents), &[0.5], &conditioning)?;
            out[0].flatten_all()?.to_vec1::<f32>()
        };
        let whole = draw(&dit).expect("a forward");
        dit.layers.swap(0, 1);
        dit.settled = false;
        let error = draw(&dit).expect_err("in doubt").to_string();
        assert!(error.contains("failed midway"), "{error}");
        dit.set_overlay(Arc::default()).expect("reads everything again");
        assert_eq!(draw(&dit).expect("a forward"), whole);
    }

    #[test]
    fn every_tensor_belongs_to_a_part() {
        let tiny = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/goldens/tiny");
        let dit = load_dit(&tiny.join("transformer"), &Device::Cpu, None).expect("the tiny model");
        let tensors = tensors(dit.config());
        assert_eq!(tensors, dit.weights.asked(), "what the model reads");
        for name in tensors.keys() {
            assert!(Part::of(name).is_some(), "{name}");
        }
        assert_eq!(Part::of("layers.29.feed_forward.w1.weight"), Some(Part::Layer(29)));
        assert_eq!(
            Part::of("context_refiner.1.attention.to_q.weight"),
            Some(Part::ContextRefiner(1))
        );
        assert_eq!(Part::of("norm_final.weight"), None);
    }
}
