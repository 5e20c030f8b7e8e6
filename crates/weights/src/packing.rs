//! Whether weights that are stored packed lie so in memory.

use candle_core::Device;
use clap::ValueEnum;
use llm_dit_device::meter;

/// How weights lie in memory that are smaller as they are stored than as they are computed with.
/// The values that are computed with are the same.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Packing {
    /// Packed, if the device's free memory does not hold them expanded.
    #[default]
    Auto,
    /// As they are stored; each matrix is expanded when it is used. Needs less memory.
    Packed,
    /// Expanded when they are loaded. Faster.
    Expanded,
}

/// What `auto` leaves for activations.
const ROOM: u64 = 2 << 30;

impl Packing {
    /// Whether they lie packed, if they take so many bytes expanded.
    pub(crate) fn is_packed(self, expanded: u64, device: &Device) -> bool {
        match self {
            Self::Packed => true,
            Self::Expanded => false,
            Self::Auto => meter::available(device)
                .is_some_and(|available| available < expanded.saturating_add(ROOM)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_fit_stays_packed() {
        let is_packed = |packing: Packing, bytes| packing.is_packed(bytes, &Device::Cpu);
        assert!(is_packed(Packing::Packed, 0) && !is_packed(Packing::Expanded, u64::MAX));
        // Where the system does not say what is free, nothing is known not to fit.
        let tells = meter::available(&Device::Cpu);
        assert_eq!(is_packed(Packing::Auto, u64::MAX), tells.is_some());
        if let Some(free) = tells.filter(|free| *free > 2 * ROOM) {
            assert!(!is_packed(Packing::Auto, free / 4));
        }
    }
}
