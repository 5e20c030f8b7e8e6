//! Which kernels a GPU gets, by its compute capability: the only place that decides. Plain data.

use llm_dit_device::Capability;

/// The kernels of one compute capability. Norms, rotations, activations and expansions are the same
/// everywhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kernels {
    /// Whether there are bf16 and the kernels for it; elsewhere weights are f16, and all but products
    /// is composed.
    pub bf16: bool,
    /// Whether `matmul.cu` runs: products and convolutions by Hopper's own instructions. Elsewhere
    /// products are cuBLAS' and convolutions those of `conv.cu`.
    pub hopper: bool,
    /// Stages of a ring in `conv.cu`.
    pub conv_stages: u32,
    /// Keys of a tile in `attention.cu`.
    pub attention_keys: u32,
}

impl Kernels {
    /// `None`: it is older than what is supported.
    pub fn of(capability: Capability) -> Option<Self> {
        // Two blocks of a multiprocessor share its memory: 100 KiB of consumer cards, else 164 or more.
        let little_memory = matches!((capability.major, capability.minor), (8, 6 | 9) | (12, _));
        (capability >= Capability::TURING).then_some(Self {
            bf16: capability >= Capability::AMPERE,
            hopper: capability == Capability::HOPPER,
            conv_stages: if little_memory { 3 } else { 4 },
            attention_keys: if little_memory { 32 } else { 64 },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_card_since_turing_has_kernels() {
        let of = |major, minor| Kernels::of(Capability::new(major, minor));
        for (major, minor) in [(5, 0), (6, 1), (7, 0)] {
            assert_eq!(of(major, minor), None);
        }
        assert!(of(7, 5).is_some_and(|kernels| !kernels.bf16 && !kernels.hopper));
        for (major, minor) in [(8, 0), (8, 6), (8, 9), (10, 0), (12, 0)] {
            assert!(
                of(major, minor).is_some_and(|kernels| kernels.bf16 && !kernels.hopper),
                "{major}.{minor}"
            );
        }
        assert!(of(9, 0).is_some_and(|kernels| kernels.hopper));
    }
}
