//! How a model uses the memory of one device: which parts stay loaded, in which form, how many images
//! are computed together, and what each stage then takes.
//!
//! Plain arithmetic: sizes in, a [`Plan`] out, the same for a service that starts, for `llm-dit
//! doctor` and for the README's table of cards
//! ([why](../../../docs/decisions/0022-device-memory.md)).

mod choose;
mod error;
mod text;
mod types;

pub use self::error::PlanError;
pub use self::types::{
    Course, Demand, Fixed, Form, GPU_OVERHEAD, Limit, Part, PartSize, Plan, PlannedPart, Stage,
    StagePeak, Stay, Work,
};

#[cfg(test)]
mod tests;
