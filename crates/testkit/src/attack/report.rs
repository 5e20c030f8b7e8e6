//! What the attacks cost, as a table.

use std::fmt;

use super::{Attack, BUDGET_MIB, OVERHEAD, Outcome, SLOWDOWN, stack::Use};

/// What came of all attacks.
#[derive(Debug, Default)]
pub struct Report {
    pub rows: Vec<Row>,
}

/// What came of one attack.
#[derive(Debug)]
pub struct Row {
    pub name: &'static str,
    bound: &'static str,
    seen: String,
    images: u64,
    jobs: u64,
    quiet: f64,
    slowest: f64,
    memory: Vec<Use>,
    /// Bounds that did not hold, whatever the machine's speed.
    pub broken: Vec<String>,
    pub skipped: Option<String>,
}

impl Row {
    pub(super) fn new(attack: &Attack, outcome: Outcome) -> Self {
        let Outcome { honest, memory, seen, mut broken, skipped } = outcome;
        broken.extend(honest.wrong.iter().map(|why| format!("honest client: {why}")));
        for Use { name, before, peak } in &memory {
            let used = peak - before;
            if used > BUDGET_MIB + OVERHEAD {
                broken.push(format!("{name} used {used:.0} MiB more than before"));
            }
        }
        Self {
            name: attack.name,
            bound: attack.bound,
            seen,
            images: honest.images,
            jobs: honest.jobs,
            quiet: honest.quiet,
            slowest: honest.slowest,
            memory,
            broken,
            skipped,
        }
    }

    /// How many times longer the slowest image took than a quiet one.
    pub fn slowdown(&self) -> f64 {
        if self.quiet > 0.0 { self.slowest / self.quiet } else { 0.0 }
    }
}

impl Report {
    /// Whether every bound held that does not depend on the machine's speed.
    pub fn is_clean(&self) -> bool {
        self.rows.iter().all(|row| row.broken.is_empty())
    }

    /// Whether every image came in time as well.
    pub fn is_in_time(&self) -> bool {
        self.rows.iter().all(|row| row.slowdown() <= SLOWDOWN)
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "| attack | bound | seen | honest images, jobs | quiet s | slowest s | most memory above the start, MiB |\n|---|---|---|---|---|---|---|"
        )?;
        self.rows.iter().try_for_each(|row| writeln!(f, "{row}"))
    }
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, bound, seen, images, jobs, quiet, slowest, .. } = self;
        if let Some(why) = &self.skipped {
            return write!(f, "| {name} | {bound} | not run: {why} | | | | |");
        }
        let late = if self.slowdown() > SLOWDOWN { " (late)" } else { "" };
        let memory: Vec<String> = self
            .memory
            .iter()
            .map(|used| format!("{} {:.0}", used.name, used.peak - used.before))
            .collect();
        write!(
            f,
            "| {name} | {bound} | {seen} | {images}, {jobs} | {quiet:.2} | {slowest:.2}{late} | {} |",
            memory.join(", ")
        )?;
        self.broken.iter().take(20).try_for_each(|why| write!(f, "\nBROKEN: {why}"))
    }
}
