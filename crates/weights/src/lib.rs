//! Reads named tensors from a folder of checkpoint files: types, files, errors.
//!
//! This crate does not know what the tensors mean.

pub mod args;
mod checkpoint;
mod comfy;
mod config;
mod config_file;
mod dtype;
#[cfg(feature = "embed-demo-model")]
mod embedded;
mod error;
mod file_source;
mod files;
mod foreign;
mod gguf;
mod header;
mod loading;
mod locate;
pub mod lora;
mod mapped;
pub mod metadata;
pub mod names;
mod overlay;
mod packing;
mod placement;
mod read;
mod resident;
mod rows;
mod scales;
mod schema;
mod source;
mod synthetic;
mod tokenizer;

pub use checkpoint::{Checkpoint, Weights};
pub use config::{PartConfig, part_config};
pub use config_file::{check_index, read_config, read_object};
pub use dtype::{Precision, compute_dtype, wire_dtype};
pub use error::LoadError;
pub use files::PartFiles;
pub use gguf::GgufTokenizer;
pub use llm_dit_device::DeviceChoice;
pub use locate::{encoder_folder, folder_of, model_folder, model_label};
pub use names::{Naming, Part, Rows};
pub use overlay::{Change, Delta, Overlay};
pub use packing::Packing;
pub use placement::{DeviceBudget, HOST_OVERHEAD, Parts, overhead};
pub use resident::{Residency, Resident};
pub use schema::{Kind, Library, Rule, Schema};
pub use synthetic::synthetic;
pub use tokenizer::gguf_tokenizer;
