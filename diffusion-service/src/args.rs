//! Flags that every program with a transformer has.

use crate::engine::BatchLimit;

/// How many pictures are made together.
#[derive(Clone, Copy, Debug, Default, clap::Args)]
pub struct BatchArgs {
    /// Pictures of one size that are made together; larger than 1024x1024, or with guidance, each
    /// counts for more [default: 1 on the CPU, else 4]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=64))]
    pub max_batch: Option<u16>,
}

impl BatchArgs {
    /// `None` leaves it to the device.
    pub fn limit(self) -> Option<BatchLimit> {
        self.max_batch.map(|pictures| BatchLimit::new(pictures.into()))
    }
}
