//! What stages take of a device, in metrics.

use llm_dit_telemetry::metrics::{Observer, PLANNED_MEMORY, STAGE_MEMORY, VRAM_LIMIT, observe};

use crate::plan::{Plan, Stage};

/// Notes the most that was on the device during a stage, in bytes; `None` where that is not known.
pub fn stage_peak(stage: Stage, bytes: Option<u64>) {
    if let Some(bytes) = bytes {
        metrics::gauge!(STAGE_MEMORY.name, "stage" => stage.name()).set(bytes as f64);
    }
}

/// Tells what a plan expects, for as long as the observer lives.
pub fn observe_plan(plan: &Plan) -> Observer {
    let (device, limit, stages) = (plan.device.clone(), plan.limit.bytes(), plan.stages.clone());
    observe(move || {
        metrics::gauge!(VRAM_LIMIT.name, "device" => device.clone()).set(limit as f64);
        for stage in &stages {
            metrics::gauge!(PLANNED_MEMORY.name, "stage" => stage.stage.name())
                .set(stage.peak as f64);
        }
    })
}
