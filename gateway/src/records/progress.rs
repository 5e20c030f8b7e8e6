//! How far a picture is, as a client is told.

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Something to tell.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Event {
    Progress(Progress),
    Preview(Preview),
}

/// Hears of everything there is to tell; must not block. `None`: nobody hears of anything before the
/// end, so that a picture can be begun all over without anybody's noticing.
pub(crate) type Report<'a> = Option<&'a (dyn Fn(Event) + Send + Sync)>;

/// How far a picture is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub(crate) struct Progress {
    pub stage: Stage,
    /// Images ahead of this one, while it is queued.
    pub queue_position: Option<u32>,
    /// Finished forward passes.
    pub step: u32,
    /// Total forward passes; 0 until known.
    pub steps: u32,
    /// Estimate from the finished steps.
    pub seconds_left: Option<f64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Stage {
    Encoding,
    Queued,
    Denoising,
    Decoding,
}

/// What the picture looks like so far.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Preview {
    pub step: u32,
    pub steps: u32,
    pub media_type: String,
    pub file: Bytes,
}

impl Event {
    /// The stage that it reports; `None` for a preview.
    pub fn stage(&self) -> Option<Stage> {
        match self {
            Self::Progress(progress) => Some(progress.stage),
            Self::Preview(_) => None,
        }
    }
}

impl Progress {
    pub fn new(stage: Stage) -> Self {
        Self { stage, queue_position: None, step: 0, steps: 0, seconds_left: None }
    }
}
