//! Flags of every program that loads a transformer.

use crate::engine::BatchLimit;

/// The batch size.
#[derive(Clone, Copy, Debug, Default, clap::Args)]
pub struct BatchArgs {
    /// Maximum batch size: images of the same size computed together. An image larger than
    /// 1024x1024, or with guidance, counts as more than one [default: 1 on the CPU, 4 elsewhere]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=64))]
    pub max_batch: Option<u16>,
}

impl BatchArgs {
    /// `None` leaves it to the device.
    pub fn limit(self) -> Option<BatchLimit> {
        self.max_batch.map(|pictures| BatchLimit::new(pictures.into()))
    }
}
