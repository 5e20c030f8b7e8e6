//! The devices that this build can use, and their memory.

use llm_dit_device::{DeviceChoice, available_memory, device_id, meter::memory};
use serde::Serialize;

/// More GPUs than a machine has.
const MAX_GPUS: usize = 16;

#[derive(Debug, Serialize)]
pub(super) struct DeviceReport {
    pub name: String,
    /// Whether the flags select it.
    pub selected: bool,
    /// `null` where the system does not say.
    pub free_bytes: Option<u64>,
    pub total_bytes: Option<u64>,
}

/// All devices that can be opened. A selected one that cannot is a problem.
pub(super) fn devices(selected: DeviceChoice, problems: &mut Vec<String>) -> Vec<DeviceReport> {
    let chosen = selected.open();
    if let Err(error) = &chosen {
        problems.push(format!("--device {selected}: {error}"));
    }
    let chosen = chosen.ok().map(|device| device_id(&device).to_string());
    let mut choices = vec![DeviceChoice::Cpu];
    if cfg!(feature = "cuda") {
        choices.extend((0..MAX_GPUS).map(DeviceChoice::Cuda));
    }
    if cfg!(feature = "metal") {
        choices.push(DeviceChoice::Metal(0));
    }
    // Numbers that no GPU has are not errors.
    let open = |choice: DeviceChoice| Some((choice, choice.open().ok()?));
    let report = |(choice, device)| {
        let memory = memory(&device);
        let free = match choice {
            DeviceChoice::Cpu => available_memory(),
            _ => memory.map(|memory| memory.total.saturating_sub(memory.reserved)),
        };
        let name = device_id(&device).to_string();
        DeviceReport {
            selected: chosen.as_ref() == Some(&name),
            name,
            free_bytes: free,
            total_bytes: memory.map(|memory| memory.total),
        }
    };
    choices.into_iter().filter_map(open).map(report).collect()
}

impl DeviceReport {
    pub fn text(&self) -> String {
        let gib = |bytes: u64| format!("{:.1} GiB", bytes as f64 / (1u64 << 30) as f64);
        let memory = match (self.free_bytes, self.total_bytes) {
            (Some(free), Some(total)) => format!("{} free of {}", gib(free), gib(total)),
            (Some(free), None) => format!("{} free", gib(free)),
            (None, Some(total)) => gib(total),
            (None, None) => "memory not known".to_owned(),
        };
        let selected = if self.selected { ", selected" } else { "" };
        format!("{:<8} {memory}{selected}", self.name)
    }
}
