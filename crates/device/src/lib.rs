//! The device that a model computes on: which one, its memory, how bytes get there, and work that is
//! captured on it and replayed.
//!
//! Nothing here knows of models or files. [`facts`] are plain data; all else needs the feature
//! `candle`, which crates without a tensor library leave off.

mod available;
mod capability;
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
#[doc(hidden)]
pub use capability::emulate;
pub use capability::{Capability, Emulation};
#[cfg(feature = "candle")]
pub use choice::{DeviceChoice, device_id, has_bf16};
#[cfg(feature = "cuda")]
pub use cuda::{CudaError, Played, cuda_device, driver_error, played};
#[cfg(feature = "candle")]
pub use error::DeviceError;
pub use facts::{DeviceId, Memory, MemoryReader};
#[cfg(feature = "candle")]
pub use graph::{CapturedGraph, warm_up};
#[cfg(feature = "candle")]
pub use out_of_memory::is_out_of_memory;
#[cfg(feature = "cuda")]
pub use upload::Uploader;
