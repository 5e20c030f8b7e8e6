//! The rows so far: printed as they come, and kept in a file.

use std::path::{Path, PathBuf};

use llm_dit_device::Memory;
use serde::Serialize;

use super::row::Row;
use crate::{error::CliError, files, progress::Progress};

/// Where and how the rows were measured.
#[derive(Clone, Debug, Serialize)]
pub struct Setting {
    pub program: String,
    pub model: String,
    pub device: String,
    pub dtype: String,
    pub vae_dtype: String,
    pub text_tokens: u32,
    pub forwards: u32,
}

/// The file.
#[derive(Serialize)]
struct File<'a> {
    #[serde(flatten)]
    setting: &'a Setting,
    rows: &'a [Row],
}

/// The rows, printed and written to the JSON file one by one.
pub struct Report<'a> {
    progress: &'a Progress,
    json: Option<PathBuf>,
    setting: Setting,
    rows: Vec<Row>,
}

impl<'a> Report<'a> {
    /// Prints the setting and the head of the table.
    pub fn new(progress: &'a Progress, json: Option<PathBuf>, setting: Setting) -> Self {
        let Setting { model, device, dtype, vae_dtype, text_tokens, .. } = &setting;
        let head =
            format!("{model} on {device}, {dtype}, VAE {vae_dtype}, {text_tokens} caption tokens");
        let report = Self { progress, json, setting, rows: Vec::new() };
        report.print(&head);
        report.print(HEAD);
        report
    }

    /// The rows so far.
    pub fn rows(&self) -> &[Row] {
        &self.rows
    }

    /// The ceiling that other rows are measured by.
    fn matmul(&self) -> Option<f64> {
        self.rows.iter().find(|row| row.name.starts_with("matmul"))?.tflops
    }

    /// Adds a row, with the memory that was read after it, and writes the file anew.
    ///
    /// # Errors
    ///
    /// [`CliError`] if the file cannot be written.
    pub fn add(&mut self, mut row: Row, memory: Option<Memory>) -> Result<(), CliError> {
        if let (Some(ceiling), Some(tflops)) = (self.matmul(), row.tflops) {
            row.share_of_matmul = Some(tflops / ceiling);
        }
        row.peak_bytes = memory.map(|memory| memory.peak);
        row.reserved_bytes = memory.map(|memory| memory.reserved);
        self.print(&line(&row));
        self.rows.push(row);
        match &self.json {
            // A file is written anew with each row; what was written to a pipe stays there.
            Some(path) if !llm_dit_files::is_stream(path) => self.write(path),
            _ => Ok(()),
        }
    }

    /// Ends the report: a device, a pipe or stdout gets the rows now.
    ///
    /// # Errors
    ///
    /// [`CliError`] if they cannot be written.
    pub fn end(&self) -> Result<(), CliError> {
        match &self.json {
            Some(path) if llm_dit_files::is_stream(path) => self.write(path),
            _ => Ok(()),
        }
    }

    /// Prints a line of the table, beside the JSON if that goes to stdout.
    pub fn print(&self, line: &str) {
        let to_stderr = self.json.as_deref().is_some_and(llm_dit_files::is_stdout);
        self.progress.suspend(|| if to_stderr { eprintln!("{line}") } else { println!("{line}") });
    }

    fn write(&self, path: &Path) -> Result<(), CliError> {
        let file = File { setting: &self.setting, rows: &self.rows };
        let text = serde_json::to_string_pretty(&file).map_err(CliError::failed)?;
        files::write(path, format!("{text}\n").as_bytes())
    }
}

const HEAD: &str = "row                            ms    TFLOP/s  of matmul      GB/s  peak GiB";

fn line(row: &Row) -> String {
    let number = |value: Option<f64>, width: usize, digits: usize| match value {
        Some(value) => format!("{value:>width$.digits$}"),
        None => " ".repeat(width),
    };
    if let Some(error) = &row.error {
        return format!("{:<24}{error}", row.name);
    }
    let share = row.share_of_matmul.map(|share| 100.0 * share);
    let line = format!(
        "{:<24}{}{}{}{}{}  {}",
        row.name,
        number(row.ms, 9, 2),
        number(row.tflops, 11, if row.tflops.is_some_and(|t| t < 10.0) { 3 } else { 1 }),
        number(share, 9, 1) + if share.is_some() { " %" } else { "  " },
        number(row.gb_per_s, 10, 2),
        number(row.peak_bytes.map(|bytes| bytes as f64 / f64::from(1 << 30)), 10, 2),
        row.note.as_deref().unwrap_or_default(),
    );
    line.trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::bench::clock::Times;

    #[test]
    fn columns_stand_under_their_names() {
        let times = Times::new(vec![Duration::from_micros(82_125)]);
        let row = Row::new("forward 1024x1024 b1", &times).with_work(56.5e12);
        let row = Row { share_of_matmul: Some(0.88), peak_bytes: Some(20 << 30), ..row };
        let line = line(&row);
        let end = |text: &str, word: &str| text.find(word).map(|at| at + word.len());
        assert_eq!(end(&line, "82.12"), end(HEAD, "ms"), "{line}");
        assert_eq!(end(&line, "688.0"), end(HEAD, "TFLOP/s"), "{line}");
        assert_eq!(end(&line, "88.0 %"), end(HEAD, "of matmul"), "{line}");
        assert_eq!(end(&line, "20.00"), end(HEAD, "peak GiB"), "{line}");
    }
}
