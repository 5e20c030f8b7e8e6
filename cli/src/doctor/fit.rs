//! Which files of Z-Image fit into a memory, as the planner of every program says it.

use llm_dit_engine::plan::{
    Course, Demand, Fixed, GPU_OVERHEAD, Limit, Part, PartSize, Plan, Stay,
};
use llm_dit_hub::{Loaded, SETS};
use llm_dit_z_image::{Largest, released_work};
use serde::Serialize;

/// How a set of files can be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Fit {
    /// All parts stay in memory.
    Resident,
    /// The text encoder is loaded for each prompt; the others stay.
    EncoderOffloaded,
    /// One part at a time.
    Offloaded,
    No,
}

#[derive(Debug, Serialize)]
pub(super) struct FitReport {
    /// As `llm-dit pull` takes it.
    pub name: &'static str,
    pub fit: Fit,
    /// Memory that all parts together need, and one at a time.
    pub resident_bytes: u64,
    pub offloaded_bytes: u64,
}

/// Each of the short names in a memory of this many bytes.
pub(super) fn fits(free: u64) -> Vec<FitReport> {
    SETS.iter().map(|set| report(set.name, set.loaded, free)).collect()
}

fn report(name: &'static str, loaded: Loaded, free: u64) -> FitReport {
    let demand = demand(loaded, Limit::Free(free));
    let fit = match Plan::new(&demand) {
        Err(_) => Fit::No,
        Ok(plan) => {
            let stays = |part| plan.part(part).is_some_and(|part| part.stay == Stay::Always);
            match (stays(Part::TextEncoder), stays(Part::Transformer)) {
                (true, true) => Fit::Resident,
                (false, true) => Fit::EncoderOffloaded,
                (_, false) => Fit::Offloaded,
            }
        }
    };
    let least = |offload| {
        let fixed = Fixed { offload: Some(offload), ..Fixed::default() };
        let nothing = Demand { limit: Limit::Free(0), fixed, ..demand.clone() };
        Plan::new(&nothing).map_or_else(|error| error.least, |plan| plan.peak())
    };
    FitReport { name, fit, resident_bytes: least(false), offloaded_bytes: least(true) }
}

/// A service with these files, for images of 1024x1024.
fn demand(loaded: Loaded, limit: Limit) -> Demand {
    let Loaded { dit, text_encoder, vae } = loaded;
    let bytes = |gigabytes: f32| (f64::from(gigabytes) * 1e9) as u64;
    let expanded = SETS[0].loaded;
    let size = |part, packed, expanded| PartSize {
        part,
        packed: bytes(packed),
        expanded: bytes(expanded),
    };
    let encode = llm_dit_qwen3::Config::qwen3_4b().encode_bytes(2);
    let largest = Largest { width: 1024, height: 1024, is_guided: false };
    Demand {
        device: "GPU".to_owned(),
        limit,
        overhead: GPU_OVERHEAD,
        parts: vec![
            size(Part::TextEncoder, text_encoder, expanded.text_encoder),
            size(Part::Transformer, dit, expanded.dit),
            size(Part::Vae, vae, vae),
        ],
        work: llm_dit_engine::plan::Work { encode, ..released_work(largest) },
        course: Course::Service,
        images: usize::MAX,
        fixed: Fixed::default(),
    }
}

impl FitReport {
    pub fn words(&self) -> &'static str {
        match self.fit {
            Fit::Resident => "fits",
            Fit::EncoderOffloaded => "fits, the text encoder loaded for each prompt",
            Fit::Offloaded => "fits, each part loaded for each use",
            Fit::No => "does not fit",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Cards of the README's table, in GiB.
    const CARDS: [u64; 6] = [80, 24, 16, 12, 8, 6];

    #[test]
    fn the_readmes_table_is_the_planners() {
        let readme = include_str!("../../../README.md");
        let cell = |fit: &FitReport| match fit.fit {
            Fit::Resident => "fits",
            Fit::EncoderOffloaded => "text encoder in turn",
            Fit::Offloaded => "all parts in turn",
            Fit::No => "no",
        };
        let mut rows = Vec::new();
        for gib in CARDS {
            // Half a GiB is the system's. The first set has the sizes of the second.
            let cells: Vec<&str> = fits((gib << 30) - (1 << 29))[1..].iter().map(cell).collect();
            rows.push(format!("| {gib} GB | {} |", cells.join(" | ")));
        }
        let missing: Vec<&String> = rows.iter().filter(|row| !readme.contains(*row)).collect();
        assert!(missing.is_empty(), "README.md should have: {rows:#?}");
    }

    #[test]
    fn less_is_needed_when_parts_take_turns() {
        for fit in fits(8 << 30) {
            assert!(fit.offloaded_bytes < fit.resident_bytes, "{fit:?}");
            let again = fits(fit.offloaded_bytes);
            let same = again.iter().find(|other| other.name == fit.name).expect("the set");
            assert_ne!(same.fit, Fit::No, "{}: what is said to suffice suffices", fit.name);
        }
    }
}
