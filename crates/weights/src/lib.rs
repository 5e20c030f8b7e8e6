//! From a folder of checkpoint files to named tensors: devices, types, files, errors.
//!
//! This crate does not know what the tensors mean.

mod device;
mod error;
mod locate;

pub use device::DeviceChoice;
pub use error::LoadError;
pub use locate::model_folder;
