//! Flags for output files and the number of images.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

#[derive(Clone, Debug, Args)]
pub struct OutputArgs {
    /// Output file; .png, .jpg or .webp selects the format. May contain {index}, {index:03},
    /// {image}, {seed} and {prompt}. - is stdout [default: the next free name of image.png,
    /// image-2.png, ...]
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// Images per prompt; the seed increases by 1 per image
    #[arg(short, long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub num_images: u32,
    /// File with one prompt per line, as text or as a JSON object such as {"prompt": "a fox",
    /// "seed": 7}; - is stdin. Images that already exist are kept
    #[arg(long, value_name = "FILE")]
    pub prompts: Option<PathBuf>,
    /// Output folder; created if it does not exist [default with --prompts: the working folder]
    #[arg(long, value_name = "DIR")]
    pub output_dir: Option<PathBuf>,
    /// Image whose stored settings to use: of this program, Automatic1111 or ComfyUI; flags on the
    /// command line override them
    #[arg(long, value_name = "FILE")]
    pub from: Option<PathBuf>,
    /// JPEG quality; WebP files are lossless
    #[arg(long, value_name = "1-100", default_value_t = 90, value_parser = clap::value_parser!(u8).range(1..=100))]
    pub quality: u8,
    /// Show the image in the terminal; auto does so if the terminal is known to support images
    #[arg(long, value_name = "WHEN", num_args = 0..=1, require_equals = true, default_value = "auto", default_missing_value = "always")]
    pub preview: PreviewWhen,
    /// The terminal type
    #[arg(long, env = "TERM", hide = true, default_value = "")]
    pub terminal: String,
}

/// When pictures are shown in the terminal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum PreviewWhen {
    Auto,
    Always,
    Never,
}
