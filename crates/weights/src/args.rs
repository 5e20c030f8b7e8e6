//! Flags of every program that loads a model.

use clap::{ArgAction, Args};

use crate::Residency;

/// When weights occupy device memory.
#[derive(Clone, Copy, Debug, Args)]
pub struct OffloadArgs {
    /// Keep only the part that is computing (text encoder, transformer or VAE) in device memory.
    /// Saves memory, but each part is loaded again before each use
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true", default_value_t = false,
          require_equals = true, action = ArgAction::Set, hide_default_value = true, hide_possible_values = true)]
    pub cpu_offload: bool,
}

impl OffloadArgs {
    /// The flag's value for a part of the model.
    pub fn residency(self) -> Residency {
        if self.cpu_offload { Residency::InUse } else { Residency::Always }
    }
}
