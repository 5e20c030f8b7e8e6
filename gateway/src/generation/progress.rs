//! How far a picture is, as a client is told.

use bytes::Bytes;
use serde::Serialize;
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
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
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

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
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

/// Keeps track of one picture's progress.
pub(super) struct Teller<'a> {
    report: Report<'a>,
    now: Progress,
    /// Time of all steps so far.
    spent: f64,
}

impl Progress {
    pub fn new(stage: Stage) -> Self {
        Self { stage, queue_position: None, step: 0, steps: 0, seconds_left: None }
    }
}

impl<'a> Teller<'a> {
    pub fn new(report: Report<'a>) -> Self {
        Self { report, now: Progress::new(Stage::Encoding), spent: 0.0 }
    }

    /// Begins a stage, or begins all over.
    pub fn enter(&mut self, stage: Stage) {
        self.now = match stage {
            Stage::Encoding | Stage::Queued => Progress::new(stage),
            Stage::Denoising | Stage::Decoding => {
                Progress { stage, queue_position: None, ..self.now.clone() }
            }
        };
        self.tell();
    }

    pub fn queued(&mut self, position: u32) {
        self.now = Progress { queue_position: Some(position), ..Progress::new(Stage::Queued) };
        self.spent = 0.0;
        self.tell();
    }

    pub fn step(&mut self, index: u32, total: u32, seconds: f64) {
        self.spent += seconds;
        let left = f64::from(total.saturating_sub(index));
        let mean = self.spent / f64::from(index.max(1));
        self.now = Progress {
            stage: if index < total { Stage::Denoising } else { Stage::Decoding },
            queue_position: None,
            step: index,
            steps: total,
            seconds_left: Some(((mean * left) * 1000.0).round() / 1000.0),
        };
        self.tell();
    }

    pub fn preview(&self, preview: Preview) {
        if let Some(report) = self.report {
            report(Event::Preview(preview));
        }
    }

    /// Whether somebody was told of steps.
    pub fn has_told_steps(&self) -> bool {
        self.report.is_some() && self.now.step > 0
    }

    fn tell(&self) {
        if let Some(report) = self.report {
            report(Event::Progress(self.now.clone()));
        }
    }
}
