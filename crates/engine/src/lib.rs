//! The interface between a service and its model, and the thread that owns the model.
//!
//! [`text::TextEncoder`] and [`image::ImageGenerator`] speak of plain data: no tensor type crosses
//! them, so services, fakes and tests compile without a tensor library. [`Worker`] is the thread
//! and its queue, [`EngineHealth`] the health of what it owns. This crate knows no transport.

mod health;
pub mod image;
mod peaks;
pub mod plan;
pub mod text;
mod turns;
mod worker;

pub use health::{Condition, EngineHealth, stall_limit};
pub use llm_dit_device::{DeviceId, Memory, MemoryReader};
pub use peaks::{observe_plan, stage_peak};
pub use turns::Turns;
pub use worker::{Answer, Batch, Place, Ticket, Unbatched, Worker};
