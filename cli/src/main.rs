//! `llm-dit`: pictures from prompts, in one process or through the services.

mod args;
mod encode;
mod error;
mod files;
mod generate;
mod progress;
mod remote;
mod serve;

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use llm_dit_serving::args as shared;

/// Text-to-image with Z-Image: one command that does it all, or drives the services
#[derive(Debug, Parser)]
#[command(version, after_help = EXAMPLES)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make a picture from a prompt
    Generate(Box<args::GenerateArgs>),
    /// Write a prompt's embeddings to a file, to generate from on another machine
    Encode(args::EncodeArgs),
    /// Run encoder, diffusion and gateway in this process and answer HTTP
    Serve(serve::ServeArgs),
}

const EXAMPLES: &str = "\
Examples:
  llm-dit generate \"a red apple on a blue background\"
      With the demo model; writes image.png
  llm-dit generate \"a fox in the snow\" --model-path ~/models/Z-Image-Turbo --seed 7
  llm-dit serve
      Then: curl -d '{\"prompt\": \"a rocket\"}' -H 'content-type: application/json' \\
                 http://127.0.0.1:7860/api/generate -o rocket.png

Exit status: 0 done, 64 wrong command line, 130 interrupted, 1 anything else.";

#[tokio::main]
async fn main() -> ExitCode {
    let cli: Cli = match shared::parse() {
        Ok(cli) => cli,
        Err(status) => return status,
    };
    let result = match cli.command {
        Command::Generate(args) => match args.gateway.clone() {
            Some(url) => remote::generate(*args, &url).await,
            None => generate::generate(*args).await,
        },
        Command::Encode(args) => encode::encode(args).await,
        Command::Serve(args) => serve::serve(args).await,
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("llm-dit: {error}");
            error.status()
        }
    }
}
