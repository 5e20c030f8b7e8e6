//! Which files of Z-Image fit into a memory. Derived from sizes: see the table of the README.

use llm_dit_hub::{Loaded, SETS};
use serde::Serialize;

/// What an image of 1024x1024 takes beside the weights, in bytes: the difference between the peak that
/// was measured on an H100 (21.2 GiB) and the weights there (19.2 GiB).
const WORK: f64 = 2.0 * (1u64 << 30) as f64;

/// How a set of files can be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Fit {
    /// All parts stay in memory.
    Resident,
    /// One part at a time, with `--cpu-offload`.
    Offloaded,
    No,
}

#[derive(Debug, Serialize)]
pub(super) struct FitReport {
    /// As `llm-dit pull` takes it.
    pub name: &'static str,
    pub fit: Fit,
    /// Free memory that all parts together need, and the largest alone.
    pub resident_bytes: u64,
    pub offloaded_bytes: u64,
}

/// Each of the short names in a free memory of this many bytes.
pub(super) fn fits(free: u64) -> Vec<FitReport> {
    let report = |(name, loaded): (&'static str, Loaded)| {
        let (resident, offloaded) = needs(loaded);
        let fit = if resident <= free {
            Fit::Resident
        } else if offloaded <= free {
            Fit::Offloaded
        } else {
            Fit::No
        };
        FitReport { name, fit, resident_bytes: resident, offloaded_bytes: offloaded }
    };
    SETS.iter().map(|set| (set.name, set.loaded)).map(report).collect()
}

fn needs(loaded: Loaded) -> (u64, u64) {
    let Loaded { dit, text_encoder, vae } = loaded;
    let bytes = |gigabytes: f32| (f64::from(gigabytes) * 1e9 + WORK) as u64;
    (bytes(dit + text_encoder + vae), bytes(dit.max(text_encoder).max(vae)))
}

impl FitReport {
    pub fn words(&self) -> &'static str {
        match self.fit {
            Fit::Resident => "fits",
            Fit::Offloaded => "fits with --cpu-offload",
            Fit::No => "does not fit",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cards_hold_what_the_readme_says() {
        let words = |gib: f64| -> Vec<&'static str> {
            let free = (gib * (1u64 << 30) as f64) as u64;
            fits(free).iter().map(FitReport::words).collect()
        };
        let (yes, offload, no) = ("fits", "fits with --cpu-offload", "does not fit");
        // Of a card, half a GiB is the system's.
        assert_eq!(words(23.5), [yes, yes, yes, yes]);
        assert_eq!(words(15.5), [offload, offload, yes, yes]);
        assert_eq!(words(11.5), [no, no, offload, yes]);
        assert_eq!(words(7.5), [no, no, no, offload]);
        assert_eq!(words(5.5), [no, no, no, no]);
    }
}
