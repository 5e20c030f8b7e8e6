//! `llm-dit bench`: how fast this machine runs each stage, without a model's files if need be.
//!
//! [`model`] holds what is measured, `measure/` has a file for each kind of row, [`clock`] decides
//! what a time is, and [`report`] keeps the rows. Rows are printed as they come, so that a run that
//! is cut short was not for nothing.

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
use llm_dit_params::{GenerateOptions, Limits, ModelDefaults};

use self::{measure::Bench, shape::Shape};
use crate::{args::ModelArgs, error::CliError, files, progress::Progress};

/// `llm-dit bench`
#[derive(Clone, Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct BenchArgs {
    /// Random weights of this shape, made on the device; no files are needed. turbo is
    /// Z-Image-Turbo's true size [default: turbo on a GPU, demo on the CPU, and the files of
    /// --model-path where that is given]
    #[arg(long, value_enum,
          conflicts_with_all = ["model_path", "dit_path", "text_encoder_path", "vae_path"])]
    shape: Option<Shape>,
    /// What to measure, with commas between: load, encode, forward, vae, image, gateway
    /// [default: all]
    #[arg(
        long,
        value_enum,
        value_name = "LIST",
        value_delimiter = ',',
        hide_possible_values = true
    )]
    only: Vec<What>,
    /// Sides of the square pictures, in pixels [default: 512,768,1024,1536,2048; 256,512 for the
    /// demo shape, 64,128 for the tiny one]
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    sizes: Vec<u32>,
    /// Pictures in one forward pass
    #[arg(long, value_name = "LIST", value_delimiter = ',', default_value = "1,2,4",
          value_parser = clap::value_parser!(u32).range(1..=64))]
    batches: Vec<u32>,
    /// Tokens of the captions that are drawn from
    #[arg(long, value_name = "N", default_value_t = 100,
          value_parser = clap::value_parser!(u32).range(1..=1504))]
    text_tokens: u32,
    /// Forward passes of a whole picture
    #[arg(long, value_name = "N", default_value_t = 8,
          value_parser = clap::value_parser!(u32).range(1..=200))]
    forwards: u32,
    /// Runs of each row, of which the median is told
    #[arg(long, value_name = "N", default_value_t = 5,
          value_parser = clap::value_parser!(u32).range(1..=1000))]
    runs: u32,
    /// Runs before those, which do not count
    #[arg(long, value_name = "N", default_value_t = 2,
          value_parser = clap::value_parser!(u32).range(0..=1000))]
    warm_up: u32,
    /// Also write the rows as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Rows of another program, as benches/diffusers_gpu.py prints them; ratios below 1 mean that
    /// this one is faster
    #[arg(long, value_name = "FILE")]
    compare: Option<PathBuf>,
    #[command(flatten, next_help_heading = "Model")]
    model: ModelArgs,
    /// Say nothing but the table and errors
    #[arg(short, long)]
    quiet: bool,
}

/// A kind of row.
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
      Everything, with random weights
  llm-dit bench --only forward --sizes 1024 --batches 1 --runs 20
  llm-dit bench --model-path ~/models/Z-Image-Turbo --json today.json
  python3 benches/diffusers_gpu.py --compile > diffusers.jsonl
  llm-dit bench --compare diffusers.jsonl
      The same stages of diffusers beside ours, by the rows' names

What each row means: docs/performance.md.";

/// Off the async threads, which the gateway's row needs.
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
        compare::print(bench.rows(), others);
    }
    bench.outcome()
}
