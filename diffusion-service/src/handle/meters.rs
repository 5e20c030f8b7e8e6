//! What the handle tells in metrics.

use llm_dit_engine::MemoryReader;
use llm_dit_fault::Fault;
use llm_dit_telemetry::metrics::{LORA_CHANGES, LORAS_ACTIVE, Observer, PICTURES, observe_service};

use super::loras::Loras;
use crate::engine::ModelInfo;

/// Tells of the device, and of the default set of LoRAs.
pub(super) fn observe(info: &ModelInfo, memory: Option<MemoryReader>, loras: &Loras) -> Observer {
    let loras = loras.clone();
    observe_service("diffusion", info.device.to_string(), move || {
        metrics::gauge!(LORAS_ACTIVE.name).set(loras.default_set().len() as f64);
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
