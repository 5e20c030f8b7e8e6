//! Changes of which some are for positive prompts only.
//!
//! A guided step computes with two sets of weights then. Where all changes of a matrix are of low rank,
//! both sets share one: those for positive prompts only are added to its products. Any other tensor is
//! there twice.

use super::{Change, Overlay};

impl Overlay {
    /// True when there are changes for positive prompts only.
    pub fn has_two_passes(&self) -> bool {
        self.0.values().flatten().any(|change| change.positive_only)
    }

    /// The same changes, all of them for all prompts.
    #[must_use]
    pub fn in_one_pass(&self) -> Self {
        self.each(|change| Some(Change { positive_only: false, ..change.clone() }))
    }

    /// Without those for positive prompts only.
    #[must_use]
    pub fn negative(&self) -> Self {
        self.each(|change| (!change.positive_only).then(|| change.clone()))
    }

    /// Tensors that negative prompts need a copy of their own of.
    pub fn copied(&self) -> impl Iterator<Item = &str> {
        let two = self.0.iter().filter(|(tensor, changes)| {
            changes.iter().any(|change| change.positive_only) && !self.has_beside(tensor)
        });
        two.map(|(tensor, _)| tensor.as_str())
    }

    /// True when changes of this matrix are added to its products, for positive prompts only.
    pub(crate) fn has_beside(&self, tensor: &str) -> bool {
        self.is_low_rank(tensor) && self.changes_of(tensor).iter().any(|c| c.positive_only)
    }

    /// The changes that [`Self::has_beside`] tells of, or all others.
    pub(super) fn some(&self, tensor: &str, beside: bool) -> impl Iterator<Item = &Change> {
        let has_beside = self.has_beside(tensor);
        let is_asked = move |change: &&Change| (has_beside && change.positive_only) == beside;
        self.changes_of(tensor).iter().filter(is_asked)
    }

    fn each(&self, change: impl Fn(&Change) -> Option<Change>) -> Self {
        let all = self.0.iter().map(|(tensor, changes)| {
            (tensor.clone(), changes.iter().filter_map(&change).collect::<Vec<_>>())
        });
        Self(all.filter(|(_, changes)| !changes.is_empty()).collect())
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device, Tensor};

    use super::*;
    use crate::Delta;

    /// 2 x 2, all values alike, or half of them with a DoRA's magnitude.
    fn change(value: f32, positive_only: bool) -> Change {
        let up = Tensor::full(value, (2, 1), &Device::Cpu).expect("two");
        let down = Tensor::ones((1, 2), DType::F32, &Device::Cpu).expect("two");
        Change { positive_only, ..Change::new(Delta::LowRank { up, down }, 1.0) }
    }

    fn fused(overlay: &Overlay, name: &str) -> f32 {
        let base = Tensor::ones((2, 2), DType::F32, &Device::Cpu).expect("ones");
        let fused = overlay.fuse(name, base, DType::F32).expect("finite");
        fused.to_vec2::<f32>().expect("values")[0][0]
    }

    fn beside(overlay: &Overlay, name: &str) -> Option<f32> {
        let side = overlay.side_branch(&[(name, 2)], true, &Device::Cpu, DType::F32);
        let side = side.expect("finite")?;
        let product = side.up.matmul(&side.down).expect("fits");
        Some(product.to_vec2::<f32>().expect("values")[0][0])
    }

    #[test]
    fn changes_of_low_rank_share_a_matrix_and_others_need_two() {
        let full = |positive_only| {
            let values = Tensor::full(4f32, (2, 2), &Device::Cpu).expect("four");
            Change { positive_only, ..Change::new(Delta::Full(values), 1.0) }
        };
        let mut overlay = Overlay::default();
        for (name, changes) in [
            ("thin", vec![change(1.0, false), change(2.0, true)]),
            ("mixed", vec![change(2.0, true), full(false)]),
            ("full", vec![full(true)]),
            ("plain", vec![full(false)]),
        ] {
            changes.into_iter().for_each(|change| overlay.add(name, change));
        }
        assert!(overlay.has_two_passes());
        assert_eq!(overlay.copied().collect::<Vec<_>>(), ["full", "mixed"]);
        let both = |overlay: &Overlay| {
            ["thin", "mixed", "full", "plain"].map(|n| (fused(overlay, n), beside(overlay, n)))
        };
        let none = |values: [f32; 4]| values.map(|value| (value, None));
        assert_eq!(both(&overlay)[0], (2.0, Some(2.0)));
        assert_eq!(both(&overlay)[1..], none([0.0, 7.0, 5.0, 5.0])[1..]);
        let one = overlay.in_one_pass();
        assert!(!one.has_two_passes() && one.copied().next().is_none());
        assert_eq!(both(&one), none([4.0, 7.0, 5.0, 5.0]));
        let negative = overlay.negative();
        assert!(!negative.has_two_passes() && !negative.tensors().contains("full"));
        assert_eq!(both(&negative), none([2.0, 5.0, 1.0, 5.0]));
    }
}
