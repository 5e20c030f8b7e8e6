//! Which kernels a GPU gets, by its compute capability: the only place that decides. Plain data.

use llm_dit_device::Capability;

/// The kernels of one compute capability. Norms, rotations, activations and expansions are the same
/// everywhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kernels {
    /// Whether `matmul.cu` runs: products and convolutions by Hopper's own instructions. Elsewhere
    /// products are cuBLAS' and convolutions those of `conv.cu`.
    pub hopper: bool,
    /// Stages of a ring in `conv.cu`.
    pub conv_stages: u32,
    /// Keys of a tile in `attention.cu`.
    pub attention_keys: u32,
}

impl Kernels {
    /// `None`: there are no kernels for it, since it has no bf16.
    pub fn of(capability: Capability) -> Option<Self> {
        // Two blocks of a multiprocessor share its memory: 100 KiB of consumer cards, else 164 or more.
        let little_memory = matches!((capability.major, capability.minor), (8, 6 | 9) | (12, _));
        (capability >= Capability::AMPERE).then_some(Self {
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
    fn every_card_since_ampere_has_kernels() {
        let of = |major, minor| Kernels::of(Capability::new(major, minor));
        for (major, minor) in [(5, 0), (6, 1), (7, 0), (7, 5)] {
            assert_eq!(of(major, minor), None);
        }
        for (major, minor) in [(8, 0), (8, 6), (8, 9), (10, 0), (12, 0)] {
            assert!(of(major, minor).is_some_and(|kernels| !kernels.hopper), "{major}.{minor}");
        }
        assert!(of(9, 0).is_some_and(|kernels| kernels.hopper));
    }
}
