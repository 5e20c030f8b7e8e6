//! The device that a model computes on: which one, its memory, how bytes get there, and work that is
//! captured on it and replayed.
//!
//! Nothing here knows of models or files.

mod choice;
#[cfg(feature = "cuda")]
mod cuda;
mod error;
pub mod meter;
mod recording;
#[cfg(feature = "cuda")]
mod upload;

pub use choice::{DeviceChoice, device_name, is_out_of_memory};
#[cfg(feature = "cuda")]
pub use cuda::{cuda_device, driver_error};
pub use error::DeviceError;
pub use recording::{Recording, rehearse};
#[cfg(feature = "cuda")]
pub use upload::Uploader;
