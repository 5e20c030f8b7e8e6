//! `llm-dit doctor`: what this machine and this build can do, what fits, and what is missing. Headers
//! of model files are read, no weights.

mod device;
mod fit;
mod model;

use std::fmt::Write as _;

use clap::Args;
use serde::Serialize;

use self::{
    device::{DeviceReport, devices},
    fit::{FitReport, fits},
    model::{ModelReport, model},
};
use crate::{args::model::ModelArgs, error::CliError, output::print, version};

#[derive(Clone, Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct DoctorArgs {
    /// Print a JSON object
    #[arg(long)]
    json: bool,
    #[command(flatten, next_help_heading = "Model")]
    model: ModelArgs,
}

const EXAMPLES: &str = "\
Examples:
  llm-dit doctor
  llm-dit doctor --model-path ~/models/Z-Image-Turbo --device cuda
  llm-dit doctor --comfyui ~/ComfyUI

Exit status: 0 if an image can be made with these flags, 1 if something is missing.";

#[derive(Serialize)]
struct Report {
    version: &'static str,
    backends: Vec<&'static str>,
    devices: Vec<DeviceReport>,
    model: ModelReport,
    /// How `generate` would use the devices with these flags; empty without a limit, as on a CPU.
    plan: Vec<String>,
    /// For the GPU that the flags select; empty for a CPU.
    fits: Vec<FitReport>,
    /// What keeps these flags from making an image.
    problems: Vec<String>,
}

/// Prints the report.
///
/// # Errors
///
/// [`CliError`] if something is missing, or if stdout cannot be written.
pub fn doctor(args: &DoctorArgs) -> Result<(), CliError> {
    let mut problems = Vec::new();
    let devices = devices(args.model.dit_device.unwrap_or(args.model.device), &mut problems);
    let (model, plan) = model(&args.model, &mut problems);
    let chosen = devices.iter().find(|device| device.selected);
    // The sizes are those of a GPU. A CPU computes in f32, and is too slow for this model anyway.
    let gpu = chosen.filter(|device| device.name != "cpu");
    let free = gpu.and_then(|device| device.free_bytes);
    let report = Report {
        version: env!("CARGO_PKG_VERSION"),
        backends: version::backends(),
        fits: free.map(fits).unwrap_or_default(),
        plan,
        devices,
        model,
        problems,
    };
    print(&match args.json {
        true => serde_json::to_string_pretty(&report).map_err(CliError::failed)? + "\n",
        false => report.text(),
    })?;
    match report.problems.len() {
        0 => Ok(()),
        1 => Err(CliError::Failed("1 problem".to_owned())),
        count => Err(CliError::Failed(format!("{count} problems"))),
    }
}

impl Report {
    fn text(&self) -> String {
        let mut text =
            format!("llm-dit {}, backends: {}\n", self.version, self.backends.join(", "));
        // Writing to a String cannot fail, here and below.
        let _ = writeln!(text, "\ndevices");
        for device in &self.devices {
            let _ = writeln!(text, "  {}", device.text());
        }
        let _ = writeln!(text, "\nmodel");
        for line in self.model.lines() {
            let _ = writeln!(text, "  {line}");
        }
        if !self.plan.is_empty() {
            let _ = writeln!(text);
        }
        for line in &self.plan {
            let _ = writeln!(text, "{line}");
        }
        if !self.fits.is_empty() {
            let _ = writeln!(
                text,
                "\nZ-Image at 1024x1024 in this device's free memory (planned from sizes)"
            );
            for fit in &self.fits {
                let _ = writeln!(text, "  {:<22} {}", fit.name, fit.words());
            }
        }
        if !self.problems.is_empty() {
            let _ = writeln!(text, "\nproblems");
            for problem in &self.problems {
                let _ = writeln!(text, "  {problem}");
            }
        }
        text
    }
}
