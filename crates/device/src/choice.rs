//! Devices as people name them.

use std::{fmt, str::FromStr};

use candle_core::{Device, DeviceLocation};

use crate::{DeviceError, DeviceId};

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
    /// Opens the device.
    ///
    /// # Errors
    ///
    /// Where an explicit choice is not available: there is no fallback then.
    pub fn open(self) -> Result<Device, DeviceError> {
        match self {
            Self::Cpu => Ok(Device::Cpu),
            Self::Cuda(index) => {
                if !cfg!(feature = "cuda") {
                    return Err(DeviceError::NoBackend {
                        device: self.to_string(),
                        feature: "cuda",
                    });
                }
                open_cuda(index)
                    .map_err(|cause| DeviceError::Open { device: self.to_string(), cause })
            }
            Self::Metal(index) => {
                if !cfg!(feature = "metal") {
                    return Err(DeviceError::NoBackend {
                        device: self.to_string(),
                        feature: "metal",
                    });
                }
                Device::new_metal(index)
                    .map_err(|cause| DeviceError::Open { device: self.to_string(), cause })
            }
            Self::Auto => {
                if cfg!(feature = "cuda") {
                    match open_cuda(0) {
                        Ok(device) => return Ok(device),
                        Err(error) => {
                            tracing::warn!(%error, "no CUDA device available; using the CPU")
                        }
                    }
                }
                if cfg!(feature = "metal") {
                    match Device::new_metal(0) {
                        Ok(device) => return Ok(device),
                        Err(error) => {
                            tracing::warn!(%error, "no Metal device available; using the CPU")
                        }
                    }
                }
                Ok(Device::Cpu)
            }
        }
    }
}

#[cfg(feature = "cuda")]
use crate::cuda_device as open_cuda;

/// candle says that it has no CUDA.
#[cfg(not(feature = "cuda"))]
fn open_cuda(index: usize) -> candle_core::Result<Device> {
    Device::new_cuda(index)
}

impl fmt::Display for DeviceChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Auto => f.write_str("auto"),
            Self::Cpu => DeviceId::Cpu.fmt(f),
            Self::Cuda(index) => DeviceId::Cuda(index).fmt(f),
            Self::Metal(index) => DeviceId::Metal(index).fmt(f),
        }
    }
}

impl FromStr for DeviceChoice {
    type Err = DeviceError;

    fn from_str(text: &str) -> Result<Self, DeviceError> {
        let (name, index) = text.split_once(':').unwrap_or((text, "0"));
        let bad = || DeviceError::Unknown(text.to_owned());
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

/// Whether a device computes in bf16: not the CPU, whose kernels compute in f32, nor GPUs before Ampere.
pub fn has_bf16(device: &Device) -> bool {
    #[cfg(feature = "cuda")]
    if let Device::Cuda(device) = device {
        return crate::played(device)
            .is_ok_and(|played| played.capability >= crate::Capability::AMPERE);
    }
    !device.is_cpu()
}

/// Which one an open device is.
pub fn device_id(device: &Device) -> DeviceId {
    match device.location() {
        DeviceLocation::Cpu => DeviceId::Cpu,
        DeviceLocation::Cuda { gpu_id } => DeviceId::Cuda(gpu_id),
        DeviceLocation::Metal { gpu_id } => DeviceId::Metal(gpu_id),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_as_people_write_them() {
        let parse = |text: &str| text.parse::<DeviceChoice>();
        assert_eq!(parse("auto").ok(), Some(DeviceChoice::Auto));
        assert_eq!(parse("cuda").ok(), Some(DeviceChoice::Cuda(0)));
        assert_eq!(parse("cuda:3").ok(), Some(DeviceChoice::Cuda(3)));
        assert_eq!(parse("mps").ok(), Some(DeviceChoice::Metal(0)));
        for wrong in ["", "gpu", "cpu:1", "cuda:", "cuda:x", "cuda:-1"] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }

    #[cfg(not(feature = "cuda"))]
    #[test]
    fn an_explicit_device_never_falls_back() {
        let error = DeviceChoice::Cuda(0).open().expect_err("this build has no CUDA").to_string();
        assert!(error.contains("--features cuda"), "{error}");
    }
}
