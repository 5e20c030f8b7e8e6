//! Parameters of a picture, parsed and checked once.
//!
//! HTTP, gRPC, flags and files all build a [`GenerateOptions`]; [`GenerateOptions::resolve`] is the
//! only way to a [`GenerateParams`], so limits and messages cannot differ by door.

mod blocks;
pub mod bounds;
mod excerpt;
mod fields;
mod limits;
mod lora;
mod model;
mod nearest;
mod options;
mod pass;
pub mod prompt;
mod reword;
mod scheduler;
mod start;
mod truncation;

pub use blocks::{LoraBlocks, MAX_BLOCKS, contains as block_contains};
pub use bounds::Bound;
pub use excerpt::excerpt;
pub use limits::{Limits, ModelDefaults};
pub use lora::{
    LoraSelection, LoraSet, MAX_LORA_NAME_BYTES, MAX_LORA_SCALE, MAX_LORAS, MAX_TRIGGER_BYTES,
};
pub use model::choose_model;
pub use nearest::nearest;
pub use options::{
    DEFAULT_MASK_BLUR, DEFAULT_STRENGTH, GenerateOptions, GenerateParams, Variation, random_seed,
    seed,
};
pub use pass::LoraPass;
pub use prompt::{MAX_PROMPT_BYTES, Prompt};
pub use reword::reword;
pub use scheduler::{Scheduler, scheduler_id};
pub use start::{DEFAULT_MASKED_STRENGTH, Start};
pub use truncation::Truncation;

/// Why a request was refused; the message says what would be accepted.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum ParamError {
    #[error("{name} {value} is not a multiple of {multiple}; the nearest are {below} and {above}")]
    NotMultiple { name: &'static str, value: u32, multiple: u32, below: u32, above: u32 },
    #[error("{name} {value} is out of range; use {min} to {max}")]
    OutOfRange { name: &'static str, value: u64, min: u64, max: u64 },
    #[error("strength {strength} leaves none of the {steps} steps; use a strength above 0")]
    NoSteps { strength: f64, steps: u32 },
    #[error("{width}x{height} is {pixels} pixels; the maximum is {limit}")]
    TooManyPixels { width: u32, height: u32, pixels: u64, limit: u64 },
    #[error("{name} {value} is out of range; use a finite number from {min} to {max}")]
    BadNumber { name: &'static str, value: f64, min: f64, max: f64 },
    #[error(
        "unknown scheduler '{name}'; {}known are {}",
        nearest.map(|n| format!("did you mean '{n}'? ")).unwrap_or_default(),
        Scheduler::list()
    )]
    UnknownScheduler { name: String, nearest: Option<Scheduler> },
    #[error("the prompt is empty; describe the image")]
    EmptyPrompt,
    #[error("{name} of {bytes} bytes is too long; the maximum is {MAX_PROMPT_BYTES} bytes")]
    PromptTooLong { name: &'static str, bytes: usize },
    #[error("{name} has {bytes} bytes; the maximum is {limit}")]
    TextTooLong { name: &'static str, bytes: usize, limit: usize },
    #[error("{count} LoRAs; the maximum is {MAX_LORAS}")]
    TooManyLoras { count: usize },
    /// Any other value that is refused; `why` says what would be accepted.
    #[error("{name}: {why}")]
    Invalid { name: &'static str, why: String },
    #[error("unknown model '{name}'; omit it, or use '{known}'")]
    UnknownModel { name: String, known: String },
}
