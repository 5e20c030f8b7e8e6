//! Kills every program again and again under load, and counts what that costs: see
//! `llm_dit_testkit::faults`. Exit status 1 when a rule is broken.
//!
//! ```sh
//! cargo build --release -p gateway -p encoder-service -p diffusion-service
//! cargo run --release -p llm-dit-tests --example faults -- --kills 20
//! ```

use std::process::ExitCode;

use clap::Parser;
use llm_dit_testkit::faults::{Plan, run};

/// Kills every program again and again under load, and counts what that costs
#[derive(Debug, Parser)]
struct Args {
    /// Of each program
    #[arg(long, value_name = "N", default_value_t = 20)]
    kills: u64,
    /// Clients that ask and wait for the answer
    #[arg(long, value_name = "N", default_value_t = 4)]
    waiting: u64,
    /// Clients that make jobs
    #[arg(long, value_name = "N", default_value_t = 4)]
    jobs: u64,
}

#[tokio::main]
async fn main() -> ExitCode {
    let Args { kills, waiting, jobs } = Args::parse();
    let report = run(Plan { kills, waiting, jobs }).await;
    print!("{report}");
    if report.is_clean() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
