//! One line of the table.

use std::{error::Error, time::Duration};

use llm_dit_device::is_out_of_memory;
use serde::Serialize;

use super::clock::Times;

/// What was measured, under the name that other programs' rows are paired by.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Row {
    pub name: String,
    /// The median.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ms: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fastest_ms: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub slowest_ms: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub runs: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tflops: Option<f64>,
    /// Of the matmul row.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub share_of_matmul: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gb_per_s: Option<f64>,
    /// The most that lay in tensors meanwhile.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub peak_bytes: Option<u64>,
    /// The most that was taken from the device.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reserved_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
    /// Why there are no figures.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// What a row that ran out of memory says.
pub const OUT_OF_MEMORY: &str = "out of memory";

impl Row {
    /// A row of these times: their median, fastest and slowest, in milliseconds.
    pub fn new(name: impl Into<String>, times: &Times) -> Self {
        let ms = |time: Duration| Some(time.as_secs_f64() * 1e3);
        Self {
            name: name.into(),
            ms: ms(times.median()),
            fastest_ms: ms(times.fastest()),
            slowest_ms: ms(times.slowest()),
            runs: Some(times.runs()),
            ..Self::default()
        }
    }

    /// A row without figures.
    pub fn failed(name: impl Into<String>, error: &(dyn Error + 'static)) -> Self {
        let message = error.to_string();
        let short = message.lines().next().unwrap_or_default().trim();
        let error = if is_out_of_memory(error) { OUT_OF_MEMORY } else { short };
        Self { name: name.into(), error: Some(error.to_owned()), ..Self::default() }
    }

    /// So many operations in the median time.
    pub fn with_work(mut self, operations: f64) -> Self {
        self.tflops = self.ms.map(|ms| operations / ms / 1e9);
        self
    }

    /// So many bytes in the median time.
    pub fn with_bytes(mut self, bytes: f64) -> Self {
        self.gb_per_s = self.ms.map(|ms| bytes / ms / 1e6);
        self
    }

    /// Whether this is a row that the run must be blamed for.
    pub fn is_failure(&self) -> bool {
        self.error.as_deref().is_some_and(|error| error != OUT_OF_MEMORY)
    }
}

#[cfg(test)]
mod tests {
    use diffusion_service::engine::GenerateError;

    use super::*;

    #[test]
    fn rates_follow_from_the_median() {
        let times = [3, 1, 2].map(Duration::from_millis).to_vec();
        let row = Row::new("x", &Times::new(times)).with_work(4e9).with_bytes(6e6);
        assert_eq!((row.ms, row.fastest_ms, row.slowest_ms), (Some(2.0), Some(1.0), Some(3.0)));
        assert_eq!((row.tflops, row.gb_per_s), (Some(2.0), Some(3.0)));
    }

    #[test]
    fn running_out_of_memory_is_told_apart() {
        let driver = "DriverError(CUDA_ERROR_OUT_OF_MEMORY, \"out of memory\")";
        let errors: [Box<dyn Error>; 2] =
            [Box::new(candle_core::Error::msg(driver)), Box::new(GenerateError::OutOfMemory)];
        for error in errors {
            let row = Row::failed("x", &*error);
            assert_eq!(row.error.as_deref(), Some(OUT_OF_MEMORY));
            assert!(!row.is_failure());
        }
        let row = Row::failed("x", &candle_core::Error::msg("shape mismatch\n at line 3"));
        assert_eq!(row.error.as_deref(), Some("shape mismatch"));
        assert!(row.is_failure());
    }
}
