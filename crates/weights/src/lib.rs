//! Reads named tensors from a folder of checkpoint files: types, files, errors.
//!
//! This crate does not know what the tensors mean.

pub mod args;
mod checkpoint;
mod config;
mod config_file;
mod dtype;
#[cfg(feature = "embed-demo-model")]
mod embedded;
mod error;
mod files;
mod foreign;
mod header;
mod loading;
mod locate;
pub mod lora;
mod mapped;
pub mod names;
mod overlay;
mod read;
mod resident;
mod safetensors_source;
mod schema;
mod source;
mod synthetic;

pub use checkpoint::{Checkpoint, Weights};
pub use config::{PartConfig, part_config};
pub use config_file::{check_index, read_config, read_object};
pub use dtype::{compute_dtype, wire_dtype};
pub use error::LoadError;
pub use files::PartFiles;
pub use llm_dit_device::DeviceChoice;
pub use locate::{encoder_folder, folder_of, model_folder, model_label};
pub use names::{Naming, Part, Rows};
pub use overlay::{Change, LowRank, Overlay};
pub use resident::{Residency, Resident};
pub use schema::{Kind, Library, Rule, Schema};
pub use synthetic::synthetic;
