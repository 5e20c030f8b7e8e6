//! What the person sees meanwhile: bars on a terminal, plain lines elsewhere, on stderr.

use std::{io::IsTerminal as _, time::Duration};

use indicatif::{ProgressBar, ProgressStyle};

/// One command's progress.
pub struct Progress {
    kind: Kind,
}

enum Kind {
    Quiet,
    Lines,
    Bar(ProgressBar),
}

impl Progress {
    pub fn new(quiet: bool) -> Self {
        let kind = if quiet {
            Kind::Quiet
        } else if std::io::stderr().is_terminal() {
            let bar = ProgressBar::new_spinner();
            bar.enable_steady_tick(Duration::from_millis(100));
            Kind::Bar(bar)
        } else {
            Kind::Lines
        };
        Self { kind }
    }

    /// A part of unknown length begins.
    pub fn stage(&self, what: &str) {
        match &self.kind {
            Kind::Quiet => {}
            Kind::Lines => eprintln!("{what}"),
            Kind::Bar(bar) => bar.set_message(what.to_owned()),
        }
    }

    /// `done` of `total` steps are done; 0 begins.
    pub fn step(&self, done: u32, total: u32, duration: Duration) {
        match &self.kind {
            Kind::Quiet => {}
            Kind::Lines if done == 0 => {}
            Kind::Lines => eprintln!("step {done}/{total} {:.2} s", duration.as_secs_f64()),
            Kind::Bar(bar) => {
                if done == 0 {
                    if let Ok(style) = ProgressStyle::with_template(
                        "{bar:32} step {pos}/{len}  {elapsed} elapsed, {eta} left",
                    ) {
                        bar.set_style(style);
                    }
                    bar.set_length(total.into());
                    bar.reset();
                }
                bar.set_position(done.into());
            }
        }
    }

    /// The last word; the bar goes away.
    pub fn done(&self, what: &str) {
        match &self.kind {
            Kind::Quiet => {}
            Kind::Lines => eprintln!("{what}"),
            Kind::Bar(bar) => {
                bar.finish_and_clear();
                eprintln!("{what}");
            }
        }
    }

    /// Something that the person should know, whatever comes.
    pub fn note(&self, what: &str) {
        match &self.kind {
            Kind::Quiet => {}
            Kind::Lines => eprintln!("note: {what}"),
            Kind::Bar(bar) => bar.suspend(|| eprintln!("note: {what}")),
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Kind::Bar(bar) = &self.kind {
            bar.finish_and_clear();
        }
    }
}
