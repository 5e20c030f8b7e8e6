//! Attacks the three programs in every way that once cost others something, and prints what each
//! attack cost: see `llm_dit_testkit::attack`. Exit status 1 when a bound does not hold.
//!
//! ```sh
//! cargo build --release --workspace
//! cargo run --release -p llm-dit-tests --example attack
//! cargo run --release -p llm-dit-tests --example attack -- --only bombs
//! ```

use std::process::ExitCode;

use clap::Parser;
use llm_dit_testkit::attack::{Plan, names, run};

/// Attacks an encoder, diffusion services and a gateway with the demo model, on the loopback address
#[derive(Debug, Parser)]
struct Args {
    /// Only attacks whose name contains this
    #[arg(long, value_name = "TEXT")]
    only: Option<String>,
    /// The short form that the tests use: fewer connections and frames
    #[arg(long)]
    short: bool,
    /// Print the names of the attacks, and exit
    #[arg(long)]
    list: bool,
}

#[tokio::main]
async fn main() -> ExitCode {
    let Args { only, short, list } = Args::parse();
    if list {
        names().for_each(|name| println!("{name}"));
        return ExitCode::SUCCESS;
    }
    let report = run(&Plan { short, only }).await;
    print!("{report}");
    if report.is_clean() && report.is_in_time() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
