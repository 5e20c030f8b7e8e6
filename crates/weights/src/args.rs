//! Flags that every program with a model takes.

use clap::{ArgAction, Args};

use crate::Residency;

/// How long the weights keep their memory.
#[derive(Clone, Copy, Debug, Args)]
pub struct OffloadArgs {
    /// Keep only the part that computes on its device: needs less memory there, and reads each part
    /// again when its turn comes
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true", default_value_t = false,
          require_equals = true, action = ArgAction::Set, hide_default_value = true, hide_possible_values = true)]
    pub cpu_offload: bool,
}

impl OffloadArgs {
    pub fn residency(self) -> Residency {
        if self.cpu_offload { Residency::InUse } else { Residency::Always }
    }
}
