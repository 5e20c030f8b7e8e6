//! Many clients at once, and clients that leave; see docs/operate/reliability.md.
//!
//!     cargo build --release --workspace
//!     cargo run --release -p llm-dit-tests --example load
//!     cargo run --release -p llm-dit-tests --example load -- --seconds 10 --cancels 200
//!     cargo run --release -p llm-dit-tests --example load -- --max-memory 64

use std::{process::ExitCode, sync::Arc, time::Duration};

use clap::Parser;
use llm_dit_testkit::load::{Budget, Stack};

/// Asks the three programs, with the demo model, for pictures of 64x64 in 4 steps
#[derive(Debug, Parser)]
struct Args {
    /// Clients at once; the last number gets the full time, those before a tenth of it
    #[arg(long, value_delimiter = ',', default_value = "1,8,64")]
    clients: Vec<usize>,
    /// How long the last number of clients asks
    #[arg(long, default_value_t = 600)]
    seconds: u64,
    /// Requests that are left before their end
    #[arg(long, default_value_t = 2000)]
    cancels: u64,
    /// Of them at once
    #[arg(long, default_value_t = 16)]
    leaving: usize,
    /// Start the programs with this --max-memory, in MiB, and give every request an init image that
    /// is large beside it; the run fails if a program exceeds it, or never reaches it
    #[arg(long, value_name = "MIB")]
    max_memory: Option<u32>,
    /// Width and height of that init image
    #[arg(long, default_value_t = 1024, requires = "max_memory")]
    init_image_size: u32,
}

#[tokio::main]
async fn main() -> ExitCode {
    let args = Args::parse();
    let budget = args.max_memory.map(|mib| Budget { mib, side: args.init_image_size });
    let stack = Arc::new(Stack::start(budget).await);
    let mut clean = true;
    for (index, &clients) in args.clients.iter().enumerate() {
        let last = index + 1 == args.clients.len();
        let seconds = if last { args.seconds } else { (args.seconds / 10).max(2) };
        let report = stack.load(clients, Duration::from_secs(seconds)).await;
        print!("{report}");
        // What is resident after a tenth of the time is still growing into its caches.
        clean &= if last { report.is_clean() } else { report.wrong.is_empty() };
    }
    if args.cancels > 0 {
        let report = stack.cancel(args.cancels, args.leaving).await;
        print!("{report}");
        clean &= report.is_clean();
    }
    if let Some(stack) = Arc::into_inner(stack) {
        stack.stop();
    }
    if clean { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
