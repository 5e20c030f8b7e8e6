//! Why a device could not be opened, with the fix in the message.

/// Why a device cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    #[error("unknown device '{0}'; use auto, cpu, cuda, cuda:N or metal")]
    Unknown(String),
    #[error(
        "this build has no {feature} backend for device {device}; build with `--features {feature}` or choose cpu"
    )]
    NoBackend { device: String, feature: &'static str },
    #[error("device {device} cannot be opened: {cause}")]
    Open { device: String, cause: candle_core::Error },
}
