//! `llm-dit bench`: times each stage on this machine, with or without model files. [`model`] holds
//! what is measured, `measure/` has a file for each kind of row, [`clock`] defines a measurement,
//! and [`report`] collects the rows. Rows are printed as they are measured, so that an interrupted
//! run keeps its results.

mod clock;
mod compare;
mod measure;
mod model;
mod report;
mod row;
mod shape;
mod work;

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use llm_dit_device::Capability;
use llm_dit_params::{GenerateOptions, Limits, ModelDefaults};

use self::{measure::Bench, shape::Shape};
use crate::{args::model::ModelArgs, error::CliError, files, progress::Progress};

/// `llm-dit bench`
#[derive(Clone, Debug, Args)]
#[command(after_long_help = EXAMPLES)]
pub struct BenchArgs {
    /// Shape of random weights created on the device; no files are needed. turbo has the shapes of
    /// Z-Image-Turbo [default: turbo on a GPU, demo on the CPU; with --model-path, its files]
    #[arg(long, value_enum,
          conflicts_with_all = ["model_path", "dit_path", "text_encoder_path", "vae_path", "comfyui"])]
    shape: Option<Shape>,
    /// Stages to measure, comma-separated: load, encode, forward, vae, image, gateway [default:
    /// all]
    #[arg(
        long,
        value_enum,
        value_name = "LIST",
        value_delimiter = ',',
        hide_possible_values = true
    )]
    only: Vec<What>,
    /// Side lengths of the square images in pixels, comma-separated [default:
    /// 512,768,1024,1536,2048; 256,512 for the demo shape, 64,128 for tiny]
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    sizes: Vec<u32>,
    /// Batch sizes, comma-separated
    #[arg(long, value_name = "LIST", value_delimiter = ',', default_value = "1,2,4",
          value_parser = clap::value_parser!(u32).range(1..=64))]
    batches: Vec<u32>,
    /// Prompt length in tokens
    #[arg(long, value_name = "N", default_value_t = 100,
          value_parser = clap::value_parser!(u32).range(1..=1504))]
    text_tokens: u32,
    /// Forward passes per image
    #[arg(long, value_name = "N", default_value_t = 8,
          value_parser = clap::value_parser!(u32).range(1..=200))]
    forwards: u32,
    /// Measured runs per row; the median is reported
    #[arg(long, value_name = "N", default_value_t = 5,
          value_parser = clap::value_parser!(u32).range(1..=1000))]
    runs: u32,
    /// Warm-up runs per row, not measured
    #[arg(long, value_name = "N", default_value_t = 2,
          value_parser = clap::value_parser!(u32).range(0..=1000))]
    warm_up: u32,
    /// Also write the rows to this file as JSON; with - they go to stdout, and the table to stderr
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// JSON rows of another program to compare with, as printed by benches/diffusers_gpu.py; a
    /// ratio below 1 means that llm-dit is faster
    #[arg(long, value_name = "FILE")]
    compare: Option<PathBuf>,
    /// Compute capability that the GPU plays, such as 8.0: kernels are chosen for that one
    #[arg(long, value_name = "X.Y", hide = true)]
    capability: Option<Capability>,
    /// As if cuDNN were not installed
    #[arg(long, hide = true)]
    without_cudnn: bool,
    #[command(flatten, next_help_heading = "Model")]
    model: ModelArgs,
    /// Print only the table and errors
    #[arg(short, long)]
    quiet: bool,
}

/// A stage to measure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub enum What {
    /// Weights from files to the device.
    Load,
    /// Token ids to embeddings on the host.
    Encode,
    /// One forward pass of the transformer.
    Forward,
    /// Latents to pixels.
    Vae,
    /// Embeddings to the bytes of a PNG.
    Image,
    /// A prompt to the bytes of a PNG, over HTTP.
    Gateway,
}

const EXAMPLES: &str = "\
Examples:
  llm-dit bench
      All stages, with random weights
  llm-dit bench --only forward --sizes 1024 --batches 1 --runs 20
  llm-dit bench --model-path ~/models/Z-Image-Turbo --json today.json
  python3 benches/diffusers_gpu.py --compile > diffusers.jsonl
  llm-dit bench --compare diffusers.jsonl
      Prints the rows of diffusers beside those of llm-dit, matched by name

docs/reference/performance.md explains each row.";

/// Measures and prints the rows. It runs off the async threads, which the gateway's row needs.
///
/// # Errors
///
/// [`CliError`] if the flags are wrong, or if a row could not be measured for another reason than
/// memory.
pub async fn bench(args: BenchArgs) -> Result<(), CliError> {
    tokio::task::spawn_blocking(move || run(&args)).await.map_err(CliError::failed)?
}

fn run(args: &BenchArgs) -> Result<(), CliError> {
    if let Some(path) = &args.json {
        files::check_writable(path)?;
    }
    for &side in &args.sizes {
        let size = GenerateOptions { width: Some(side), height: Some(side), ..Default::default() };
        size.resolve(&ModelDefaults::z_image_turbo(), &Limits::default())
            .map_err(CliError::usage)?;
    }
    let others = args.compare.as_deref().map(compare::read).transpose()?;
    let progress = Progress::new(args.quiet);
    let mut bench = Bench::new(args, &progress)?;
    bench.run()?;
    progress.end();
    if let Some(others) = &others {
        compare::lines(bench.rows(), others).iter().for_each(|line| bench.report().print(line));
    }
    bench.report().end()?;
    bench.outcome()
}
