//! Flags of every program that loads a model.

use std::{fmt, str::FromStr};

use clap::{ArgAction, Args};
use llm_dit_memory::{SizeError, parse_size};

use crate::Packing;

/// When and how weights occupy device memory.
#[derive(Clone, Copy, Debug, Args)]
pub struct OffloadArgs {
    /// Device memory that this program may use, such as 8G, or auto (what is free). Parts are kept,
    /// packed or loaded for each use, and images are decoded in bands, as that needs; the program
    /// prints its plan, and refuses to start with less than it needs. On the CPU, auto is no limit
    #[arg(long, value_name = "SIZE", default_value_t = MaxVram::Auto)]
    pub max_vram: MaxVram,
    /// Keep only the part that is computing (text encoder, transformer or VAE) in device memory, or
    /// with =false all parts. Saves memory, but each part is loaded again before each use [default:
    /// as --max-vram needs]
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true",
          require_equals = true, action = ArgAction::Set, hide_possible_values = true)]
    pub cpu_offload: Option<bool>,
    /// Form in memory of weights that are stored in fewer bits than they are computed in (GGUF, fp8,
    /// bf16 on the CPU): packed (expanded matrix by matrix on use; needs less memory), expanded (when
    /// loaded; faster) or auto (as --max-vram needs). The image is the same
    #[arg(long, value_name = "FORM", value_enum, default_value_t = Packing::Auto, hide_possible_values = true)]
    pub weights: Packing,
}

/// `--max-vram`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MaxVram {
    /// What is free on the device; on the CPU, no limit.
    #[default]
    Auto,
    /// Bytes.
    Size(u64),
}

/// What is wrong with a value of `--max-vram`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MaxVramError {
    #[error("{0}, or auto")]
    Size(#[from] SizeError),
}

impl FromStr for MaxVram {
    type Err = MaxVramError;

    fn from_str(text: &str) -> Result<Self, MaxVramError> {
        if text == "auto" { Ok(Self::Auto) } else { Ok(Self::Size(parse_size(text)?)) }
    }
}

impl fmt::Display for MaxVram {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Size(bytes) if bytes.is_multiple_of(1 << 30) => write!(f, "{}G", bytes >> 30),
            Self::Size(bytes) if bytes.is_multiple_of(1 << 20) => write!(f, "{}M", bytes >> 20),
            Self::Size(bytes) => write!(f, "{bytes}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_is_written_as_it_is_read() {
        for limit in
            [MaxVram::Auto, MaxVram::Size(8 << 30), MaxVram::Size(900 << 20), MaxVram::Size(7)]
        {
            assert_eq!(limit.to_string().parse(), Ok(limit));
        }
        assert!("8GB".parse::<MaxVram>().expect_err("no unit").to_string().ends_with("or auto"));
    }
}
