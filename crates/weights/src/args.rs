//! Flags of every program that loads a model.

use clap::{ArgAction, Args};

use crate::{Packing, Residency};

/// When and how weights occupy device memory.
#[derive(Clone, Copy, Debug, Args)]
pub struct OffloadArgs {
    /// Keep only the part that is computing (text encoder, transformer or VAE) in device memory.
    /// Saves memory, but each part is loaded again before each use
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true", default_value_t = false,
          require_equals = true, action = ArgAction::Set, hide_default_value = true, hide_possible_values = true)]
    pub cpu_offload: bool,
    /// Form in memory of weights that are stored in fewer bits than they are computed in (GGUF, fp8,
    /// bf16 on the CPU): packed (expanded matrix by matrix on use; needs less memory), expanded (when
    /// loaded; faster) or auto (packed if the device's free memory is too small for expanded weights).
    /// The image is the same
    #[arg(long, value_name = "FORM", value_enum, default_value_t = Packing::Auto, hide_possible_values = true)]
    pub weights: Packing,
}

impl OffloadArgs {
    /// The flag's value for a part of the model.
    pub fn residency(self) -> Residency {
        if self.cpu_offload { Residency::InUse } else { Residency::Always }
    }
}
