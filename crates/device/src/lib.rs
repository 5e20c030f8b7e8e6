//! The device that a model computes on: which one, its memory, how bytes get there, and work that is
//! captured on it and replayed.
//!
//! Nothing here knows of models or files. [`facts`] are plain data; all else needs the feature
//! `candle`, which crates without a tensor library leave off.

mod available;
#[cfg(feature = "candle")]
mod choice;
#[cfg(feature = "cuda")]
mod cuda;
#[cfg(feature = "candle")]
mod error;
pub mod facts;
#[cfg(feature = "candle")]
mod graph;
#[cfg(feature = "candle")]
pub mod meter;
#[cfg(feature = "candle")]
mod out_of_memory;
#[cfg(feature = "cuda")]
mod upload;

pub use available::available_memory;
#[cfg(feature = "candle")]
pub use choice::{DeviceChoice, device_id};
#[cfg(feature = "cuda")]
pub use cuda::{CudaError, cuda_device, driver_error};
#[cfg(feature = "candle")]
pub use error::DeviceError;
pub use facts::{DeviceId, Memory, MemoryReader};
#[cfg(feature = "candle")]
pub use graph::{CapturedGraph, warm_up};
#[cfg(feature = "candle")]
pub use out_of_memory::is_out_of_memory;
#[cfg(feature = "cuda")]
pub use upload::Uploader;
