//! What the handle tells in metrics.

use llm_dit_engine::MemoryReader;
use llm_dit_fault::Fault;
use llm_dit_telemetry::metrics::{LORA_CHANGES, LORAS_ACTIVE, Observer, PICTURES, observe_service};

use crate::engine::ModelInfo;

/// Tells of the device, and how many LoRAs the default set has.
pub(super) fn observe(
    info: &ModelInfo,
    memory: Option<MemoryReader>,
    default_loras: impl Fn() -> usize + Send + Sync + 'static,
) -> Observer {
    observe_service("diffusion", info.device.to_string(), move || {
        metrics::gauge!(LORAS_ACTIVE.name).set(default_loras() as f64);
        memory.as_ref()?()
    })
}

/// Counts a picture that was in the queue.
pub(super) fn count<T>(end: &Result<T, Fault>) {
    metrics::counter!(PICTURES.name, "outcome" => outcome(end)).increment(1);
}

pub(super) fn count_lora_change<T>(end: &Result<T, Fault>) {
    metrics::counter!(LORA_CHANGES.name, "outcome" => outcome(end)).increment(1);
}

fn outcome<T>(end: &Result<T, Fault>) -> &'static str {
    match end {
        Ok(_) => "done",
        Err(Fault::Cancelled(_)) => "cancelled",
        Err(_) => "failed",
    }
}
