//! Progress of a download, on stderr: a bar on a terminal, plain lines otherwise.

use std::{
    io::IsTerminal as _,
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use indicatif::{DecimalBytes, ProgressBar};
use llm_dit_hub::{FileName, Progress};

use crate::progress::style;

/// Until the files are known.
const SPINNER: &str = "{spinner} {msg}";
const BAR: &str =
    "{bar:32} {msg}, {decimal_bytes} of {decimal_total_bytes}, {decimal_bytes_per_sec}, {eta} left";

/// The progress of one repository.
pub(super) struct Transfer {
    kind: Kind,
    repo: String,
    files: AtomicUsize,
    done: AtomicUsize,
}

enum Kind {
    Quiet,
    Lines,
    Bar(ProgressBar),
}

impl Transfer {
    /// Of this repository; nothing if `quiet`.
    pub fn new(quiet: bool, repo: &str) -> Self {
        let kind = if quiet {
            Kind::Quiet
        } else if std::io::stderr().is_terminal() {
            let bar = ProgressBar::new_spinner();
            style(&bar, SPINNER);
            bar.set_message(format!("{repo}: asking for its files"));
            bar.enable_steady_tick(Duration::from_millis(100));
            Kind::Bar(bar)
        } else {
            Kind::Lines
        };
        Self { kind, repo: repo.to_owned(), files: AtomicUsize::new(0), done: AtomicUsize::new(0) }
    }

    fn say(&self, what: &str) {
        match &self.kind {
            Kind::Quiet => {}
            Kind::Lines => eprintln!("{what}"),
            Kind::Bar(bar) => bar.suspend(|| eprintln!("{what}")),
        }
    }

    fn count(&self, done: usize) -> String {
        format!("{}: {done} of {} files", self.repo, self.files.load(Ordering::Relaxed))
    }
}

impl Progress for Transfer {
    fn begin(&self, files: usize, bytes: u64, here: u64) {
        self.files.store(files, Ordering::Relaxed);
        let repo = &self.repo;
        let so_far = match here {
            0 => String::new(),
            _ => format!(", of which {} are here", DecimalBytes(here)),
        };
        match &self.kind {
            Kind::Quiet => {}
            Kind::Lines => eprintln!("{repo}: {files} files, {}{so_far}", DecimalBytes(bytes)),
            Kind::Bar(bar) => {
                style(bar, BAR);
                bar.set_message(self.count(0));
                bar.set_length(bytes);
                // What was here has taken no time.
                bar.set_position(here);
                bar.reset_eta();
            }
        }
    }

    fn advance(&self, bytes: u64) {
        if let Kind::Bar(bar) = &self.kind {
            bar.inc(bytes);
        }
    }

    fn retract(&self, bytes: u64) {
        if let Kind::Bar(bar) = &self.kind {
            bar.dec(bytes);
        }
    }

    fn file(&self, name: &FileName, bytes: u64) {
        let done = 1 + self.done.fetch_add(1, Ordering::Relaxed);
        match &self.kind {
            Kind::Quiet => {}
            Kind::Lines => eprintln!("{name}, {}", DecimalBytes(bytes)),
            Kind::Bar(bar) => bar.set_message(self.count(done)),
        }
    }

    fn again(&self, after: Duration, why: &str) {
        self.say(&format!("note: {why}; trying again in {} s", after.as_secs()));
    }

    fn waits(&self, name: &FileName) {
        self.say(&format!("note: another process downloads {name}; waiting for it"));
    }
}

impl Drop for Transfer {
    fn drop(&mut self) {
        if let Kind::Bar(bar) = &self.kind {
            bar.finish_and_clear();
        }
    }
}
