//! Flags about where pictures go and how many there are.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

#[derive(Clone, Debug, Args)]
pub struct OutputArgs {
    /// Where to write the picture; .png, .jpg or .webp says the format. May hold {index}, {index:03},
    /// {image}, {seed} and {prompt} [default: image.png]
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// Pictures to make of each prompt, with seeds that count up from the first one
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub num_images: u32,
    /// Make a picture of every line of this file: a prompt, or a JSON object such as
    /// {"prompt": "a fox", "seed": 7}. Those that are there already are kept
    #[arg(long, value_name = "FILE")]
    pub prompts: Option<PathBuf>,
    /// Folder for the pictures; made if it is not there [default with --prompts: the working folder]
    #[arg(long, value_name = "DIR")]
    pub output_dir: Option<PathBuf>,
    /// Make this program's picture again, from what its file says; flags that are given go before that
    #[arg(long, value_name = "FILE")]
    pub from: Option<PathBuf>,
    /// Quality of JPEG files; WebP files lose nothing
    #[arg(long, value_name = "1-100", default_value_t = 90, value_parser = clap::value_parser!(u8).range(1..=100))]
    pub quality: u8,
    /// Show the picture in the terminal; auto does where the terminal is known to draw pictures
    #[arg(long, value_name = "WHEN", num_args = 0..=1, require_equals = true, default_value = "auto", default_missing_value = "always")]
    pub preview: PreviewWhen,
    /// The terminal's own name
    #[arg(long, env = "TERM", hide = true, default_value = "")]
    pub terminal: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum PreviewWhen {
    Auto,
    Always,
    Never,
}
