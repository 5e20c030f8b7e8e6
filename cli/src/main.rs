//! `llm-dit`: pictures from prompts, in one process or through the services.

#![cfg_attr(
    not(feature = "local"),
    expect(dead_code, reason = "what only the engines need is not cut out piece by piece")
)]

mod api;
mod args;
#[cfg(feature = "local")]
mod bench;
mod cached;
mod certificates;
mod command;
mod config;
#[cfg(feature = "local")]
mod doctor;
mod embeddings;
mod encode;
mod error;
mod files;
mod format;
mod generate;
mod hints;
#[cfg(feature = "local")]
mod local;
#[cfg(not(feature = "local"))]
#[path = "absent.rs"]
mod local;
mod lora;
mod manual;
mod output;
mod preview;
mod progress;
mod pull;
#[cfg(feature = "local")]
mod serve;
#[cfg(feature = "local")]
mod services;
mod stdin;
mod templates;
mod version;
#[cfg(feature = "local")]
mod vram;

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use llm_dit_serving::{
    args::report,
    probe::{HealthArgs, Protocol},
};
use llm_dit_settings::{Parsed, Program};

use self::command::Whole;

/// Text-to-image with Z-Image, in one process or through a gateway
#[derive(Debug, Parser)]
#[command(name = "llm-dit", version, long_version = version::long(), after_help = EXAMPLES)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Generate images from a prompt
    Generate(Box<args::GenerateCommand>),
    /// Write the embeddings of prompts to a file, to generate from on another machine
    Encode(Box<args::EncodeArgs>),
    /// Show the formatted prompt that the text encoder receives, and its token counts
    Format(format::FormatArgs),
    /// List the prompt templates, or show one
    Templates(templates::TemplatesArgs),
    /// Run text encoder, diffusion service and gateway in one process and serve HTTP
    Serve(Box<local::ServeArgs>),
    /// Check the health of `llm-dit serve` or of a gateway: exit status 0 or 1
    Health(HealthArgs<7860>),
    /// Create TLS certificates and API keys for your machines
    Certificates(certificates::CertificatesArgs),
    /// Download a model from the Hugging Face hub
    Pull(Box<pull::PullArgs>),
    /// List the models that were downloaded
    List(cached::ListArgs),
    /// Remove a downloaded model
    Rm(cached::RmArgs),
    /// Check devices, memory and model files, and show what fits on this machine
    Doctor(Box<local::DoctorArgs>),
    /// Benchmark every stage on this machine; needs no model files
    Bench(Box<local::BenchArgs>),
    /// Show the configuration and the source of each value
    #[command(subcommand)]
    Config(config::ConfigCommand),
    /// Print a completion script for a shell
    Completions(manual::CompletionsArgs),
    /// Print a man page, or write those of all commands
    Man(manual::ManArgs),
}

const EXAMPLES: &str = "\
Examples:
  llm-dit generate \"a red apple on a blue background\"
      Uses the demo model; writes image.png, or image-2.png and so on if that exists
  llm-dit generate \"a fox in the snow\" --model-path ~/models/Z-Image-Turbo --seed 7
  llm-dit serve
      Then: curl -d '{\"prompt\": \"a rocket\"}' -H 'content-type: application/json' \\
                 http://127.0.0.1:7860/api/generate -o rocket.png

Every flag has an environment variable: LLM_DIT_ and the flag's name in capitals (LLM_DIT_STEPS=4).
Most flags have a key in the configuration file: see llm-dit config --help.

Exit status: 0 success; 64 wrong command line, or a file that it names cannot be used; 130
interrupted; 1 any other failure.";

#[tokio::main]
async fn main() -> ExitCode {
    #[cfg(feature = "local")]
    if let Some(status) = services::run_as_called().await {
        return status;
    }
    let parsed = llm_dit_settings::parse::<Whole>(Program::Command);
    let Parsed { args: Whole(cli), settings } = match parsed {
        Ok(parsed) => parsed,
        Err(error) => {
            let words: Vec<_> = std::env::args_os().collect();
            return report(&hints::explain(error, &llm_dit_settings::command::<Whole>(), &words));
        }
    };
    let result = match cli.command {
        Command::Generate(args) => generate::generate(*args, settings).await,
        Command::Encode(args) => encode::encode(*args).await,
        Command::Format(args) => format::format(&args),
        Command::Templates(args) => templates::templates(&args),
        Command::Serve(args) => local::serve(*args).await,
        Command::Health(args) => return args.run(Protocol::Http).await,
        Command::Certificates(args) => certificates::certificates(&args),
        Command::Pull(args) => pull::pull(*args).await,
        Command::List(args) => cached::list(&args),
        Command::Rm(args) => cached::rm(&args),
        Command::Doctor(args) => local::doctor(&args),
        Command::Bench(args) => local::bench(*args).await,
        Command::Config(command) => config::run(command, &settings),
        Command::Completions(args) => manual::completions(&args),
        Command::Man(args) => manual::man(&args),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            error.status()
        }
    }
}
