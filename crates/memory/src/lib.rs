//! The bytes that the requests of a process may hold together.
//!
//! Every upload, decoded image and result reserves its bytes in a [`MemoryBudget`] before they are
//! allocated. What does not fit is refused at once, so that many requests of an allowed size cannot
//! exhaust the machine. The weights and activations of models are not part of the budget.

mod args;
mod budget;
mod size;

pub use args::MemoryArgs;
pub use budget::{DEFAULT_BYTES, MemoryBudget, Reservation};
pub use size::{SizeError, parse_size};
