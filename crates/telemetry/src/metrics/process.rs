//! Metrics of the process, under the names that Prometheus' own clients use. They are complete on
//! Linux; other systems report only the start time.

use std::{
    sync::OnceLock,
    time::{SystemTime, UNIX_EPOCH},
};

use super::PROCESS_START;

static BEGAN: OnceLock<f64> = OnceLock::new();

/// Called once, early.
pub(super) fn begin() {
    BEGAN.get_or_init(|| {
        SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64())
    });
}

pub(super) fn observe() {
    if let Some(began) = BEGAN.get() {
        ::metrics::gauge!(PROCESS_START.name).set(*began);
    }
    #[cfg(target_os = "linux")]
    linux::observe();
}

#[cfg(target_os = "linux")]
mod linux {
    use std::fs;

    use crate::metrics::{PROCESS_FDS, PROCESS_MEMORY};

    /// Sets the gauges of resident memory, in bytes, and open file descriptors.
    pub fn observe() {
        if let Some(bytes) = resident() {
            ::metrics::gauge!(PROCESS_MEMORY.name).set(bytes as f64);
        }
        if let Ok(open) = fs::read_dir("/proc/self/fd") {
            ::metrics::gauge!(PROCESS_FDS.name).set(open.count() as f64);
        }
    }

    /// The line is `VmRSS: kilobytes kB`.
    fn resident() -> Option<u64> {
        let status = fs::read_to_string("/proc/self/status").ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
        Some(line.split_whitespace().next()?.parse::<u64>().ok()? << 10)
    }
}
