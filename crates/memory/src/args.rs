//! The flag of every program that has a budget.

use crate::{MemoryBudget, SizeError, parse_size};

/// The memory of requests.
#[derive(Clone, Copy, Debug, clap::Args)]
pub struct MemoryArgs {
    /// Memory for all requests together, such as 2G or 512M: uploads, decoded images and results,
    /// without models and caches. Requests beyond it are rejected and told when to retry
    #[arg(long, value_name = "SIZE", value_parser = at_least_smallest, default_value = "2G")]
    pub max_memory: u64,
}

/// Below this, no image of the default size could be made.
const SMALLEST_BYTES: u64 = 64 << 20;

/// Why a value of `--max-memory` is invalid.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MemoryArgsError {
    #[error(transparent)]
    Size(#[from] SizeError),
    #[error("the smallest size is {}M", SMALLEST_BYTES >> 20)]
    TooSmall,
}

impl MemoryArgs {
    /// The budget of this process. Programs that run several services share one.
    pub fn budget(self) -> MemoryBudget {
        MemoryBudget::new(self.max_memory)
    }
}

fn at_least_smallest(text: &str) -> Result<u64, MemoryArgsError> {
    match parse_size(text)? {
        bytes if bytes < SMALLEST_BYTES => Err(MemoryArgsError::TooSmall),
        bytes => Ok(bytes),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_budget_that_holds_no_image_is_refused() {
        assert_eq!(at_least_smallest("64M"), Ok(64 << 20));
        assert_eq!(at_least_smallest("63M"), Err(MemoryArgsError::TooSmall));
        assert_eq!(at_least_smallest("much"), Err(MemoryArgsError::Size(SizeError)));
    }
}
