//! Progress of a command, on stderr: a bar on a terminal, plain lines otherwise.

use std::{cell::Cell, io::IsTerminal as _, time::Duration};

use indicatif::{ProgressBar, ProgressStyle};
use llm_dit_engine::image::Step;

/// While the length is not known.
const SPINNER: &str = "{spinner} {msg}";

/// One bar over all pictures. The time left is shown once the first step has been timed.
const BAR: &str = "{bar:32} {msg}, {elapsed} elapsed";
const BAR_WITH_TIME_LEFT: &str = "{bar:32} {msg}, {elapsed} elapsed, {eta} left";

/// One command's progress.
pub struct Progress {
    kind: Kind,
    pictures: Cell<usize>,
    done: Cell<usize>,
    /// Length of the bar that is done: steps, and for each picture one more, which is decoding and
    /// writing it.
    units: Cell<u64>,
    /// Whether the length is known.
    begun: Cell<bool>,
}

enum Kind {
    Quiet,
    Lines,
    Bar(ProgressBar),
}

impl Progress {
    /// A progress bar on a terminal, lines in a log, or nothing if `quiet`.
    pub fn new(quiet: bool) -> Self {
        let kind = if quiet {
            Kind::Quiet
        } else if std::io::stderr().is_terminal() {
            let bar = ProgressBar::new_spinner();
            style(&bar, SPINNER);
            bar.enable_steady_tick(Duration::from_millis(100));
            Kind::Bar(bar)
        } else {
            Kind::Lines
        };
        Self {
            kind,
            pictures: Cell::new(1),
            done: Cell::new(0),
            units: Cell::new(0),
            begun: Cell::new(false),
        }
    }

    /// A part of unknown length begins.
    pub fn stage(&self, what: &str) {
        match &self.kind {
            Kind::Quiet => {}
            Kind::Lines => eprintln!("{what}"),
            Kind::Bar(bar) if self.begun.get() => {
                bar.set_message(format!("{}{what}", self.what(1, ", ").unwrap_or_default()));
            }
            Kind::Bar(bar) => bar.set_message(what.to_owned()),
        }
    }

    /// From here on, this many pictures with this many steps in all are made; 0 steps: unknown.
    pub fn begin(&self, pictures: usize, steps: u32) {
        self.pictures.set(pictures);
        self.begun.set(true);
        if let Kind::Bar(bar) = &self.kind {
            if steps > 0 {
                bar.set_length(u64::from(steps) + pictures as u64);
                style(bar, BAR);
            }
            bar.set_message(self.what(1, "").unwrap_or_else(|| "waiting for the image".into()));
            bar.reset();
        }
    }

    /// A step of the pictures under way, of which so many are made together; 0 begins them.
    pub fn step(&self, step: Step, together: usize) {
        let Step { index, total, duration } = step;
        match &self.kind {
            Kind::Quiet => {}
            Kind::Lines if index == 0 => {}
            Kind::Lines => {
                let what = self.what(together, ", ").unwrap_or_default();
                eprintln!("{what}step {index}/{total} {:.2} s", duration.as_secs_f64());
            }
            Kind::Bar(bar) => {
                if bar.length().is_none() {
                    // A gateway tells the steps with the first of them.
                    bar.set_length((u64::from(total) + 1) * self.pictures.get() as u64);
                    style(bar, BAR);
                }
                let at = self.units.get() + u64::from(index) * together as u64;
                bar.set_position(at);
                if index == 1 {
                    style(bar, BAR_WITH_TIME_LEFT);
                }
                let what = self.what(together, ", ").unwrap_or_default();
                bar.set_message(format!("{what}step {index}/{total}"));
                if index == total {
                    self.units.set(at);
                }
            }
        }
    }

    /// A picture is written. `brief` is what a quiet command says of it.
    pub fn picture(&self, what: &str, brief: &str) {
        self.done.set(self.done.get() + 1);
        self.units.set(self.units.get() + 1);
        match &self.kind {
            Kind::Quiet => eprintln!("{brief}"),
            Kind::Lines => self.say(what),
            Kind::Bar(bar) => {
                bar.set_position(self.units.get());
                self.say(what);
            }
        }
    }

    /// The bar goes away.
    pub fn end(&self) {
        if let Kind::Bar(bar) = &self.kind {
            bar.finish_and_clear();
        }
    }

    /// The last word.
    pub fn done(&self, what: &str) {
        self.end();
        self.say(what);
    }

    /// Something that the person should know, whatever comes.
    pub fn note(&self, what: &str) {
        self.say(&format!("note: {what}"));
    }

    /// Runs what writes to the terminal itself.
    pub fn suspend<T>(&self, work: impl FnOnce() -> T) -> T {
        match &self.kind {
            Kind::Quiet | Kind::Lines => work(),
            Kind::Bar(bar) => bar.suspend(work),
        }
    }

    fn say(&self, what: &str) {
        match &self.kind {
            Kind::Quiet => {}
            Kind::Lines | Kind::Bar(_) => self.suspend(|| eprintln!("{what}")),
        }
    }

    /// Which of several pictures are under way.
    fn what(&self, together: usize, end: &str) -> Option<String> {
        let (done, pictures) = (self.done.get(), self.pictures.get());
        let first = done + 1;
        (pictures > 1).then(|| match together {
            0 | 1 => format!("image {first}/{pictures}{end}"),
            _ => format!("images {first} to {}/{pictures}{end}", done + together),
        })
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.end();
    }
}

/// Gives a bar this form.
pub fn style(bar: &ProgressBar, template: &str) {
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
}
