//! Follows one picture and reports its progress.

use crate::records::progress::{Event, Preview, Progress, Report, Stage};

/// Keeps track of one picture's progress.
pub(super) struct ProgressReporter<'a> {
    to: Report<'a>,
    now: Progress,
    /// Time of all steps so far.
    spent: f64,
}

impl<'a> ProgressReporter<'a> {
    pub fn new(to: Report<'a>) -> Self {
        Self { to, now: Progress::new(Stage::Encoding), spent: 0.0 }
    }

    /// Begins a stage, or begins all over.
    pub fn enter(&mut self, stage: Stage) {
        self.now = match stage {
            Stage::Encoding | Stage::Queued => Progress::new(stage),
            Stage::Denoising | Stage::Decoding => {
                Progress { stage, queue_position: None, ..self.now.clone() }
            }
        };
        self.report();
    }

    pub fn queued(&mut self, position: u32) {
        self.now = Progress { queue_position: Some(position), ..Progress::new(Stage::Queued) };
        self.spent = 0.0;
        self.report();
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
        self.report();
    }

    pub fn preview(&self, preview: Preview) {
        if let Some(report) = self.to {
            report(Event::Preview(preview));
        }
    }

    /// Whether a client has heard of steps.
    pub fn has_reported_steps(&self) -> bool {
        self.to.is_some() && self.now.step > 0
    }

    fn report(&self) {
        if let Some(report) = self.to {
            report(Event::Progress(self.now.clone()));
        }
    }
}
