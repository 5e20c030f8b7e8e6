//! Compute capabilities of NVIDIA's GPUs, and GPUs that play older ones.

use std::{fmt, str::FromStr, sync::Mutex};

/// A compute capability, such as 8.9. Ordered by age.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Capability {
    pub major: u32,
    pub minor: u32,
}

/// What a GPU is taken for, so that the paths of GPUs that are not at hand can be tested and timed.
/// Kernels are compiled for the GPU itself, and chosen for what it plays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Emulation {
    /// `None`: its own. A capability above its own counts as its own.
    pub capability: Option<Capability>,
    /// False: as if cuDNN were not installed.
    pub cudnn: bool,
}

static EMULATION: Mutex<Emulation> = Mutex::new(Emulation::NONE);

impl Capability {
    pub const TURING: Self = Self::new(7, 5);
    pub const AMPERE: Self = Self::new(8, 0);
    pub const HOPPER: Self = Self::new(9, 0);

    pub const fn new(major: u32, minor: u32) -> Self {
        Self { major, minor }
    }
}

impl fmt::Display for Capability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

impl FromStr for Capability {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parse = |text: &str| text.parse::<u32>().ok();
        text.split_once('.')
            .and_then(|(major, minor)| Some(Self::new(parse(major)?, parse(minor)?)))
            .ok_or_else(|| format!("'{text}' is no compute capability such as 8.0"))
    }
}

impl Emulation {
    /// The GPU as it is.
    pub const NONE: Self = Self { capability: None, cudnn: true };

    /// A GPU of this capability.
    pub const fn of(capability: Capability) -> Self {
        Self { capability: Some(capability), cudnn: true }
    }
}

impl Default for Emulation {
    fn default() -> Self {
        Self::NONE
    }
}

/// What GPUs play that this process opens from now on. For tests and the benchmark.
#[doc(hidden)]
pub fn emulate(emulation: Emulation) {
    *EMULATION.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = emulation;
}

/// What a GPU that is opened now plays.
#[cfg(feature = "cuda")]
pub(crate) fn emulation() -> Emulation {
    *EMULATION.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capabilities_are_read_as_nvidia_writes_them() {
        assert_eq!("8.0".parse(), Ok(Capability::AMPERE));
        assert_eq!("12.0".parse(), Ok(Capability::new(12, 0)));
        assert!(Capability::new(8, 9) < Capability::HOPPER);
        assert!(Capability::new(12, 0) > Capability::HOPPER);
        for wrong in ["", "8", "8.", ".0", "8.0a", "8,0"] {
            assert!(wrong.parse::<Capability>().is_err(), "{wrong}");
        }
    }
}
