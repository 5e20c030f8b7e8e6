//! The transformer of the negative prompts, where some changes are for positive prompts only.

use std::sync::Arc;

use llm_dit_weights::{LoadError, Weights};

use super::{Dit, replay::GraphCache};

impl Dit {
    /// The same transformer without the changes for positive prompts only, if there are any. It shares
    /// all tensors but those of parts that have such a change which is no product of two factors: these
    /// parts are loaded twice. It captures its forwards for itself.
    pub fn negative(&self) -> Option<&Self> {
        self.negative.as_deref()
    }

    /// Makes it for the overlay of these weights, which this transformer has already.
    pub(super) fn load_negative(&mut self, weights: &Weights) -> Result<(), LoadError> {
        self.negative = None;
        let overlay = weights.overlay();
        if !overlay.has_two_passes() {
            return Ok(());
        }
        let weights = weights.with_overlay(Arc::new(overlay.negative()));
        let mut negative = self.without_sides(&weights)?;
        negative.reload_those(overlay.copied(), &weights)?;
        self.negative = Some(Box::new(negative));
        Ok(())
    }

    fn without_sides(&self, weights: &Weights) -> candle_core::Result<Self> {
        let blocks = |blocks: &[super::Block]| -> candle_core::Result<Vec<super::Block>> {
            blocks.iter().map(super::Block::without_sides).collect()
        };
        Ok(Self {
            config: self.config.clone(),
            device: self.device.clone(),
            dtype: self.dtype,
            x_embedder: self.x_embedder.without_side(),
            x_pad_token: self.x_pad_token.clone(),
            cap_norm: self.cap_norm.clone(),
            cap_embedder: self.cap_embedder.without_side(),
            cap_pad_token: self.cap_pad_token.clone(),
            t_embedder: self.t_embedder.without_sides(),
            noise_refiner: blocks(&self.noise_refiner)?,
            context_refiner: blocks(&self.context_refiner)?,
            layers: blocks(&self.layers)?,
            final_modulation: self.final_modulation.without_side(),
            final_linear: self.final_linear.without_side(),
            tables: self.tables.clone(),
            weights: weights.clone(),
            settled: true,
            graphs: GraphCache::default(),
            negative: None,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use candle_core::{DType, Device, Tensor};
    use llm_dit_proto as proto;
    use llm_dit_weights::{Change, Delta, Overlay};

    use super::*;
    use crate::{
        dit::{linear_layers, tensors},
        load_dit,
        noise::Noise,
    };

    fn noise(seed: u64, shape: &[usize]) -> Tensor {
        let values = Noise::new(seed).randn(shape.iter().product());
        Tensor::from_vec(values, shape, &Device::Cpu).expect("noise")
    }

    fn draw(dit: &Dit) -> Vec<f32> {
        let (caption, latents) = (noise(1, &[3, 40]), noise(2, &[16, 6, 10]));
        let conditioning = dit.condition(&[caption], &[(6, 10)]).expect("a caption");
        let out = dit.forward(&[latents], &[0.5], &conditioning).expect("a forward");
        out[0].flatten_all().and_then(|x| x.to_vec1::<f32>()).expect("values")
    }

    fn apart(a: &[f32], b: &[f32]) -> f32 {
        let squares = |x: &mut dyn Iterator<Item = f32>| x.map(|v| v * v).sum::<f32>();
        let distance = squares(&mut a.iter().zip(b).map(|(a, b)| a - b));
        (distance / squares(&mut b.iter().copied())).sqrt()
    }

    /// Whatever it changes, the negative prompts' transformer is the one without it, bit for bit, and
    /// the positive prompts' the one that has it fused.
    #[test]
    fn every_tensor_can_be_changed_for_positive_prompts_only() {
        let tiny =
            Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/goldens/tiny/transformer");
        let mut dit = load_dit(&tiny, &Device::Cpu, Some(proto::DType::F32)).expect("tiny model");
        let plain = draw(&dit);
        let layers = linear_layers(dit.config());
        for (name, shape) in tensors(dit.config()) {
            let layer = name.strip_suffix(".weight").and_then(|layer| layers.get(layer));
            let delta = match layer {
                Some(&[outs, ins]) => {
                    Delta::LowRank { up: noise(3, &[outs, 2]), down: noise(4, &[2, ins]) }
                }
                None => Delta::Full(noise(5, &shape)),
            };
            let change = Change { positive_only: true, ..Change::new(delta, 0.2) };
            let mut overlay = Overlay::default();
            overlay.add(name.as_str(), change);
            assert_eq!(overlay.copied().count(), usize::from(layer.is_none()), "{name}");

            dit.set_overlay(Arc::new(overlay.in_one_pass())).expect("loads");
            assert!(dit.negative().is_none(), "{name}");
            let fused = draw(&dit);
            assert!(apart(&fused, &plain) > 1e-3, "{name} would pass unread");
            dit.set_overlay(Arc::new(overlay)).expect("loads");
            let positive = draw(&dit);
            assert!(apart(&positive, &fused) < 1e-5, "{name}: {}", apart(&positive, &fused));
            assert!(draw(dit.negative().expect("another")) == plain, "{name}");
        }
        dit.set_overlay(Arc::default()).expect("loads");
        assert!(dit.negative().is_none() && draw(&dit) == plain);
    }

    #[test]
    fn a_change_that_cannot_be_made_leaves_both_as_they_were() {
        let tiny =
            Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/goldens/tiny/transformer");
        let mut dit = load_dit(&tiny, &Device::Cpu, Some(proto::DType::F32)).expect("tiny model");
        let set = |name: &str, factor: f64| {
            let times = |x: Tensor| (x * factor).expect("a tensor");
            let (up, down) = (times(noise(3, &[48, 2])), times(noise(4, &[2, 48])));
            let change = Change::new(Delta::LowRank { up, down }, 1.0);
            let mut overlay = Overlay::default();
            overlay.add(name, Change { positive_only: true, ..change });
            Arc::new(overlay)
        };
        dit.set_overlay(set("layers.0.attention.to_k.weight", 0.5)).expect("loads");
        let both = |dit: &Dit| (draw(dit), draw(dit.negative().expect("another")));
        let before = both(&dit);
        assert_ne!(before.0, before.1);
        // Each factor is within the range, their product is not.
        let error = dit.set_overlay(set("layers.2.attention.to_q.weight", 1e25));
        let error = error.expect_err("too large").to_string();
        assert!(error.contains("layers.2.attention.to_q.weight"), "{error}");
        assert!(both(&dit) == before);
    }

    #[test]
    fn tensors_are_shared() {
        let tiny =
            Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/goldens/tiny/transformer");
        let mut dit = load_dit(&tiny, &Device::Cpu, Some(proto::DType::F32)).expect("tiny model");
        let mut overlay = Overlay::default();
        let delta = Delta::Full(Tensor::ones((1, 48), DType::F32, &Device::Cpu).expect("ones"));
        overlay.add("x_pad_token", Change { positive_only: true, ..Change::new(delta, 1.0) });
        dit.set_overlay(Arc::new(overlay)).expect("loads");
        let negative = dit.negative().expect("another");
        assert_eq!(dit.cap_norm.id(), negative.cap_norm.id());
        assert_ne!(dit.x_pad_token.id(), negative.x_pad_token.id());
    }
}
