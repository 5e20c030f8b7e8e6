//! From a folder of checkpoint files to named tensors: devices, types, files, errors.
//!
//! This crate does not know what the tensors mean.

mod checkpoint;
mod device;
#[cfg(feature = "embed-demo-model")]
mod embedded;
mod error;
mod locate;
pub mod lora;
mod names;
mod overlay;

pub use checkpoint::{Checkpoint, Weights, read_config};
pub use device::{DeviceChoice, compute_dtype, device_name, wire_dtype};
pub use error::LoadError;
pub use locate::{model_folder, model_label};
pub use names::{Part, Rows};
pub use overlay::{LowRank, Overlay};
