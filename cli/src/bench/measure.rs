//! The rows, a file for each kind.

mod encode;
mod forward;
mod gateway;
mod image;
mod load;
mod matmul;
mod vae;

use std::{error::Error, fmt::Display, time::Instant};

use candle_core::Device;
use llm_dit_device::{device_id, meter};
use llm_dit_weights::wire_dtype;

use super::{
    BenchArgs, What,
    clock::Clock,
    model::{Model, Plan},
    report::{Report, Setting},
    row::Row,
};
use crate::{error::CliError, progress::Progress};

/// Tokens of the prompts that the encoder gets.
pub const PROMPTS: [usize; 2] = [64, 512];

/// A run of the bench.
pub struct Bench<'a> {
    args: &'a BenchArgs,
    plan: Plan,
    lines: Lines<'a>,
}

/// What every kind of row needs.
#[derive(Clone, Debug)]
pub struct Setup {
    pub clock: Clock,
    pub sizes: Vec<u32>,
    pub batches: Vec<u32>,
    pub text_tokens: u32,
    pub forwards: u32,
}

/// Where rows go.
pub struct Lines<'a> {
    progress: &'a Progress,
    report: Report<'a>,
    device: Device,
    done: usize,
    total: usize,
}

impl<'a> Bench<'a> {
    /// Prepares a run, and prints the head of the report.
    ///
    /// # Errors
    ///
    /// [`CliError`] if the flags are wrong or a device cannot be opened.
    pub fn new(args: &'a BenchArgs, progress: &'a Progress) -> Result<Self, CliError> {
        let plan = Plan::new(args)?;
        let setting = Setting {
            program: concat!("llm-dit ", env!("CARGO_PKG_VERSION")).to_owned(),
            model: plan.label(),
            device: device_id(&plan.device).to_string(),
            dtype: wire_dtype(plan.dtype).to_string(),
            vae_dtype: wire_dtype(plan.vae_dtype).to_string(),
            text_tokens: args.text_tokens,
            forwards: args.forwards,
        };
        let report = Report::new(progress, args.json.clone(), setting);
        let device = plan.device.clone();
        let lines = Lines { progress, report, device, done: 0, total: 0 };
        Ok(Self { args, plan, lines })
    }

    /// Loads the models and measures all rows that the flags ask for.
    ///
    /// # Errors
    ///
    /// [`CliError`] if a model cannot be loaded or the report cannot be written. A row that fails
    /// is part of the report.
    pub fn run(&mut self) -> Result<(), CliError> {
        let setup = self.setup();
        let Self { plan, lines, .. } = self;
        let wants = |what: What| self.args.only.is_empty() || self.args.only.contains(&what);
        let (sizes, batches) = (setup.sizes.len(), setup.batches.len());
        let counts = [
            (true, 1),
            (wants(What::Encode), PROMPTS.len()),
            (wants(What::Forward), sizes * batches),
            (wants(What::Vae), sizes),
            (wants(What::Image), sizes),
            (wants(What::Gateway), sizes),
            (wants(What::Load), load::ROWS),
        ];
        lines.total = counts.iter().filter(|(wanted, _)| *wanted).map(|(_, count)| count).sum();

        matmul::rows(&setup, plan, lines)?;
        let mut model = Model::default();
        if wants(What::Encode) || wants(What::Gateway) {
            model.encoder = Some(lines.prepare("weights of the encoder", || plan.load_encoder())?);
        }
        if [What::Forward, What::Vae, What::Image, What::Gateway].into_iter().any(wants) {
            model.diffusion =
                Some(lines.prepare("weights of DiT and VAE", || plan.load_diffusion())?);
        }
        if let Some(encoder) = model.encoder.as_deref_mut()
            && wants(What::Encode)
        {
            encode::rows(&setup, encoder, lines)?;
        }
        if let Some(diffusion) = model.diffusion.as_mut() {
            if wants(What::Forward) {
                forward::rows(&setup, diffusion, lines)?;
            }
            if wants(What::Vae) {
                vae::rows(&setup, diffusion, lines)?;
            }
            if wants(What::Image) {
                image::rows(&setup, diffusion, lines)?;
            }
        }
        if let Model { encoder: Some(encoder), diffusion: Some(diffusion) } = model
            && wants(What::Gateway)
        {
            match plan.tokenizer() {
                Ok(folder) => gateway::rows(&setup, encoder, diffusion, &folder, lines)?,
                Err(error) => lines.measure("gateway", || Err::<Row, _>(error))?,
            }
        }
        // Last, when the device is empty again.
        if wants(What::Load) {
            load::rows(&setup, plan, lines)?;
        }
        Ok(())
    }

    fn setup(&self) -> Setup {
        let args = self.args;
        let default = || self.plan.sizes().to_vec();
        Setup {
            clock: Clock { warm_up: args.warm_up, runs: args.runs },
            sizes: if args.sizes.is_empty() { default() } else { args.sizes.clone() },
            batches: args.batches.clone(),
            text_tokens: args.text_tokens,
            forwards: args.forwards,
        }
    }

    /// The rows so far.
    pub fn rows(&self) -> &[Row] {
        self.lines.report.rows()
    }

    /// Where the rows are printed.
    pub fn report(&self) -> &Report<'a> {
        &self.lines.report
    }

    /// Whether all rows could be measured. A row that needs more memory than the machine has counts
    /// as measured.
    ///
    /// # Errors
    ///
    /// [`CliError`] with the names of the rows that failed.
    pub fn outcome(&self) -> Result<(), CliError> {
        let failed: Vec<&str> = self
            .rows()
            .iter()
            .filter(|row| row.is_failure())
            .map(|row| row.name.as_str())
            .collect();
        if failed.is_empty() {
            return Ok(());
        }
        Err(CliError::Failed(format!("these rows could not be measured: {}", failed.join(", "))))
    }
}

impl Setup {
    /// For rows that take seconds.
    pub fn slow_clock(&self) -> Clock {
        Clock { warm_up: self.clock.warm_up.min(1), runs: self.clock.runs.min(3) }
    }
}

impl Lines<'_> {
    /// Measures one row. If it fails, the row holds the error, and the next one can still be
    /// measured.
    ///
    /// # Errors
    ///
    /// [`CliError`] if the report cannot be written.
    pub fn measure<E: Error + 'static>(
        &mut self,
        name: &str,
        measure: impl FnOnce() -> Result<Row, E>,
    ) -> Result<(), CliError> {
        self.done += 1;
        self.progress.stage(&format!("{name} ({} of {})", self.done, self.total));
        meter::reset_peak(&self.device);
        let row = measure().unwrap_or_else(|error| Row::failed(name, &error));
        self.report.add(row, meter::memory(&self.device))
    }

    /// Does the work that must precede rows. A row of its own says how long it took.
    ///
    /// # Errors
    ///
    /// [`CliError`] if the work fails or the report cannot be written.
    pub fn prepare<T, E: Display>(
        &mut self,
        name: &str,
        prepare: impl FnOnce() -> Result<T, E>,
    ) -> Result<T, CliError> {
        self.progress.stage(name);
        meter::reset_peak(&self.device);
        let begun = Instant::now();
        let done = prepare().map_err(CliError::failed)?;
        meter::synchronize(&self.device).map_err(CliError::failed)?;
        let note = format!("ready in {:.1} s", begun.elapsed().as_secs_f64());
        let row = Row { name: name.to_owned(), note: Some(note), ..Row::default() };
        self.report.add(row, meter::memory(&self.device))?;
        Ok(done)
    }

    /// The device that is measured.
    pub fn device(&self) -> Device {
        self.device.clone()
    }
}
