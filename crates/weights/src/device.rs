//! Where a model runs.

use std::{fmt, str::FromStr};

use candle_core::Device;

use crate::LoadError;

/// A device as a person names it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DeviceChoice {
    /// CUDA if this build has it and a GPU answers, else Metal likewise, else the CPU.
    #[default]
    Auto,
    Cpu,
    Cuda(usize),
    Metal(usize),
}

impl DeviceChoice {
    /// Opens the device; an explicit choice that cannot be had is an error, never a fallback.
    pub fn open(self) -> Result<Device, LoadError> {
        match self {
            Self::Cpu => Ok(Device::Cpu),
            Self::Cuda(index) => {
                if !cfg!(feature = "cuda") {
                    return Err(LoadError::NoBackend { device: self.to_string(), feature: "cuda" });
                }
                Device::new_cuda(index).map_err(|e| LoadError::device(self, &e))
            }
            Self::Metal(index) => {
                if !cfg!(feature = "metal") {
                    return Err(LoadError::NoBackend {
                        device: self.to_string(),
                        feature: "metal",
                    });
                }
                Device::new_metal(index).map_err(|e| LoadError::device(self, &e))
            }
            Self::Auto => {
                if cfg!(feature = "cuda") {
                    match Device::new_cuda(0) {
                        Ok(device) => return Ok(device),
                        Err(error) => {
                            tracing::warn!(%error, "no CUDA device answers; using the CPU")
                        }
                    }
                }
                if cfg!(feature = "metal") {
                    match Device::new_metal(0) {
                        Ok(device) => return Ok(device),
                        Err(error) => {
                            tracing::warn!(%error, "no Metal device answers; using the CPU")
                        }
                    }
                }
                Ok(Device::Cpu)
            }
        }
    }
}

impl fmt::Display for DeviceChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Cpu => f.write_str("cpu"),
            Self::Cuda(index) => write!(f, "cuda:{index}"),
            Self::Metal(index) => write!(f, "metal:{index}"),
        }
    }
}

impl FromStr for DeviceChoice {
    type Err = LoadError;

    fn from_str(text: &str) -> Result<Self, LoadError> {
        let (name, index) = text.split_once(':').unwrap_or((text, "0"));
        let bad = || LoadError::UnknownDevice(text.to_owned());
        let index: usize = index.parse().map_err(|_| bad())?;
        match (name, text.contains(':')) {
            ("auto", false) => Ok(Self::Auto),
            ("cpu", false) => Ok(Self::Cpu),
            ("cuda", _) => Ok(Self::Cuda(index)),
            // "mps" is what PyTorch calls it.
            ("metal" | "mps", _) => Ok(Self::Metal(index)),
            _ => Err(bad()),
        }
    }
}
