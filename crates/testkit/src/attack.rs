//! Attacks on the three programs, each with a bound on what it may cost others.
//!
//! Every attack meets fresh programs with the demo model. Beside it an honest client asks for images
//! and runs jobs: each of its images must be pixel for pixel the one that was made before, each job
//! must end with its image, and each must come within [`SLOWDOWN`] times the quiet time. No program
//! may use more memory than its `--max-memory` above what it used before, and [`OVERHEAD`].
//!
//! All attacks go to the loopback address, and are bounded in count and time.

mod bombs;
mod floods;
mod h2;
mod honest;
mod liars;
mod machine;
mod report;
mod requests;
mod silence;
mod stack;

use std::time::Duration;

use futures::future::LocalBoxFuture;

pub use self::report::{Report, Row};

/// Limit on the time of an image during an attack, as a multiple of its time without one.
pub const SLOWDOWN: f64 = 3.0;
/// MiB that connections, their buffers and the allocator may take beside the stated budget.
pub const OVERHEAD: f64 = 96.0;
/// `--max-memory` of every program.
const BUDGET: &str = "256M";
const BUDGET_MIB: f64 = 256.0;

/// How much is done.
#[derive(Clone, Debug, Default)]
pub struct Plan {
    /// The form for every change: fewer connections, fewer frames.
    pub short: bool,
    /// Only attacks whose name contains this.
    pub only: Option<String>,
}

impl Plan {
    /// `full`, or a part of it that a test has time for.
    fn count(&self, full: usize, short: usize) -> usize {
        if self.short { short } else { full }
    }
}

/// One attack.
struct Attack {
    name: &'static str,
    /// What must hold, beside what must hold for all.
    bound: &'static str,
    run: for<'a> fn(&'a Plan) -> LocalBoxFuture<'a, Outcome>,
}

/// What came of one attack.
#[derive(Debug, Default)]
struct Outcome {
    honest: honest::Honest,
    memory: Vec<stack::Use>,
    /// What happened, as a person wants to read it.
    seen: String,
    /// Bounds that did not hold.
    broken: Vec<String>,
    /// The attack cannot be made on this system, for this reason.
    skipped: Option<String>,
}

impl Outcome {
    fn skipped(why: impl Into<String>) -> Self {
        Self { skipped: Some(why.into()), ..Self::default() }
    }
}

macro_rules! attack {
    ($name:literal, $bound:literal, $run:path) => {
        Attack { name: $name, bound: $bound, run: |plan| Box::pin($run(plan)) }
    };
}

const ATTACKS: &[Attack] = &[
    attack!("silent connections", "each port frees them after its time limit", silence::sockets),
    attack!("slow heads and bodies", "they are ended by the least rate", silence::slow),
    attack!(
        "hung diffusion service",
        "all images come from the other one",
        silence::hung_diffusion
    ),
    attack!("hung encoder", "all images come with the other one", silence::hung_encoder),
    attack!("HTTP/2 rapid reset", "the connection is closed", floods::rapid_reset),
    attack!("HTTP/2 CONTINUATION", "the connection is closed", floods::continuation),
    attack!("HTTP/2 PING", "memory stays flat", floods::ping),
    attack!("HTTP/2 SETTINGS", "memory stays flat", floods::settings),
    attack!("image bombs", "each is refused with 4xx", bombs::images),
    attack!("large images at once", "the sum stays in the budget", bombs::large),
    attack!("unfinished uploads", "the sum stays in the budget", bombs::uploads),
    attack!("large bodies at once", "the sum stays in the budget", bombs::bodies),
    attack!("a LoRA name of 70,000 letters", "4xx; no other image is lost", requests::long_name),
    attack!("numbers that overflow", "4xx; the service stays healthy", requests::overflow),
    attack!("a lying diffusion service", "every image comes from the other one", liars::diffusion),
    attack!("a lying encoder", "every image comes with the other one", liars::encoder),
    attack!("a service that speaks no gRPC", "it gets no requests", liars::bytes),
    attack!("a job that kills its service", "at most two services die", machine::poison),
    attack!("full disk", "images are made all the same", machine::full_disk),
    attack!("64 descriptors", "no busy loop; open connections work", machine::descriptors),
    attack!("clock steps", "nothing changes", machine::clock),
    attack!("name server fails", "the addresses are found again", machine::names),
];

/// The names of all attacks.
pub fn names() -> impl Iterator<Item = &'static str> {
    ATTACKS.iter().map(|attack| attack.name)
}

/// Makes the attacks of the plan, one after the other.
///
/// # Panics
///
/// When a program does not start.
pub async fn run(plan: &Plan) -> Report {
    let mut report = Report::default();
    for attack in ATTACKS {
        if plan.only.as_ref().is_some_and(|only| !attack.name.contains(only.as_str())) {
            continue;
        }
        let outcome = (attack.run)(plan).await;
        let row = Row::new(attack, outcome);
        eprintln!("{row}");
        report.rows.push(row);
    }
    report
}

/// Nothing that is waited for takes longer.
const PATIENCE: Duration = Duration::from_secs(60);
