//! The table of all metrics. `docs/operate/observability.md` documents them; a test compares the two.

use Kind::{Counter, Gauge, Histogram};

/// One family of time series.
#[derive(Clone, Copy, Debug)]
pub struct Metric {
    /// Named by Prometheus' conventions: the unit at the end, `_total` for counters.
    pub name: &'static str,
    pub kind: Kind,
    /// Values come from a fixed list or from the operator, never from a client.
    pub labels: &'static [&'static str],
    pub help: &'static str,
}

/// The type of a metric.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Kind {
    Counter,
    Gauge,
    /// The upper bounds of the buckets.
    Histogram(&'static [f64]),
}

/// From the time of a tokenizer to that of a large image.
const SECONDS: &[f64] = &[
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0,
    120.0, 300.0, 600.0,
];
const JOBS: &[f64] = &[1.0, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 16.0, 32.0, 64.0];

macro_rules! metrics {
    ($($id:ident $kind:expr, $name:literal, [$($label:literal),*], $help:literal;)*) => {
        $(
            #[doc = $help]
            pub const $id: Metric =
                Metric { name: $name, kind: $kind, labels: &[$($label),*], help: $help };
        )*
        /// In the order of the documentation.
        pub const ALL: &[Metric] = &[$($id),*];
    };
}

metrics! {
    BUILD_INFO Gauge, "llm_dit_build_info", ["service", "version"],
        "Always 1; the version is a label";
    PROCESS_START Gauge, "process_start_time_seconds", [],
        "Start time of the process, in seconds since 1970";
    PROCESS_MEMORY Gauge, "process_resident_memory_bytes", [],
        "Resident memory of the process";
    PROCESS_FDS Gauge, "process_open_fds", [],
        "Open file descriptors of the process";

    HTTP_REQUESTS Counter, "llm_dit_http_requests_total", ["method", "route", "status"],
        "HTTP requests that were answered or cancelled by the client (499)";
    HTTP_SECONDS Histogram(SECONDS), "llm_dit_http_request_seconds", ["method", "route"],
        "Duration of HTTP requests, from the request head to the end of the response";
    GRPC_REQUESTS Counter, "llm_dit_grpc_requests_total", ["grpc_service", "grpc_method", "grpc_code"],
        "gRPC calls that were answered or cancelled by the client (Cancelled)";
    GRPC_SECONDS Histogram(SECONDS), "llm_dit_grpc_request_seconds", ["grpc_service", "grpc_method"],
        "Duration of gRPC calls, from the request head to the status";

    CONNECTIONS_REFUSED Counter, "llm_dit_connections_refused_total", [],
        "Connections closed because the limit on open connections was reached";

    BUDGET_RESERVED Gauge, "llm_dit_memory_budget_reserved_bytes", [],
        "Bytes of --max-memory that requests hold";
    BUDGET_PEAK Gauge, "llm_dit_memory_budget_peak_bytes", [],
        "Most bytes of --max-memory that requests held at one time";
    BUDGET_LIMIT Gauge, "llm_dit_memory_budget_limit_bytes", [],
        "Value of --max-memory";
    BUDGET_REJECTIONS Counter, "llm_dit_memory_budget_rejections_total", [],
        "Requests rejected because --max-memory was reached";

    QUEUE_DEPTH Gauge, "llm_dit_queue_depth", ["worker"],
        "Jobs waiting for the worker";
    QUEUE_CAPACITY Gauge, "llm_dit_queue_capacity", ["worker"],
        "Maximum number of waiting jobs";
    QUEUE_RUNNING Gauge, "llm_dit_queue_running", ["worker"],
        "Jobs in progress";
    QUEUE_WAIT Histogram(SECONDS), "llm_dit_queue_wait_seconds", ["worker"],
        "Time that jobs waited in the queue";
    QUEUE_REJECTIONS Counter, "llm_dit_queue_rejections_total", ["worker"],
        "Jobs rejected because the queue was full";
    QUEUE_CANCELS Counter, "llm_dit_queue_cancels_total", ["worker"],
        "Jobs cancelled while they waited";
    BATCH_SIZE Histogram(JOBS), "llm_dit_batch_size", ["worker"],
        "Jobs per batch";
    TURN_SECONDS Histogram(SECONDS), "llm_dit_turn_seconds", ["worker"],
        "Time that the worker was busy with a batch";
    WORKER_PANICS Counter, "llm_dit_worker_panics_total", ["worker"],
        "Batches that ended in a panic";

    STAGE_SECONDS Histogram(SECONDS), "llm_dit_stage_seconds", ["stage"],
        "Duration of each stage of the work";
    STEPS Counter, "llm_dit_steps_total", [],
        "Forward passes of the transformer, counted per image";
    STEP_SECONDS Histogram(SECONDS), "llm_dit_step_seconds", [],
        "Duration of a forward pass, observed once per image of the batch";
    PROMPTS Counter, "llm_dit_prompts_total", ["outcome"],
        "Prompts queued for encoding, by outcome";
    PROMPT_TOKENS Counter, "llm_dit_prompt_tokens_total", [],
        "Encoded tokens";
    PROMPTS_CUT Counter, "llm_dit_prompts_truncated_total", [],
        "Prompts that were truncated";
    PICTURES Counter, "llm_dit_pictures_total", ["outcome"],
        "Images queued at a diffusion service, by outcome";
    TENSOR_BYTES Counter, "llm_dit_tensor_bytes_total", ["service", "direction"],
        "Bytes of embeddings, latents and images that a service received or sent";
    LORA_CHANGES Counter, "llm_dit_lora_changes_total", ["outcome"],
        "Changes of the default LoRA set at run time, by outcome";
    LORAS_ACTIVE Gauge, "llm_dit_loras_active", [],
        "LoRAs of the default set";

    MEMORY_USED Gauge, "llm_dit_device_memory_used_bytes", ["service", "device"],
        "Memory used by tensors; on the CPU, resident memory of the process";
    MEMORY_PEAK Gauge, "llm_dit_device_memory_peak_bytes", ["service", "device"],
        "Peak memory used by tensors since the start";
    MEMORY_RESERVED Gauge, "llm_dit_device_memory_reserved_bytes", ["service", "device"],
        "Peak memory allocated on the device, by all programs";
    MEMORY_SIZE Gauge, "llm_dit_device_memory_size_bytes", ["service", "device"],
        "Total memory of the device";

    STAGE_MEMORY Gauge, "llm_dit_stage_memory_peak_bytes", ["stage"],
        "Peak memory used by tensors during the last encode, denoise or decode, with the weights; GPUs only";
    PLANNED_MEMORY Gauge, "llm_dit_planned_memory_bytes", ["stage"],
        "Memory that the plan of --max-vram expects for the stage";
    VRAM_LIMIT Gauge, "llm_dit_device_memory_limit_bytes", ["device"],
        "Value of --max-vram, or with auto the memory that was free at the start";

    GATEWAY_PICTURES Counter, "llm_dit_gateway_pictures_total", ["outcome"],
        "Image requests to the gateway, by outcome";
    GATEWAY_SECONDS Histogram(SECONDS), "llm_dit_gateway_picture_seconds", [],
        "Duration of successful image requests";
    GATEWAY_RUNNING Gauge, "llm_dit_gateway_pictures_in_progress", [],
        "Image requests in flight";
    GATEWAY_LIMIT Gauge, "llm_dit_gateway_pictures_limit", [],
        "Maximum number of image requests in flight";
    GATEWAY_REJECTIONS Counter, "llm_dit_gateway_rejections_total", ["what"],
        "Requests rejected because a limit was reached";
    CACHE_HITS Counter, "llm_dit_embedding_cache_hits_total", [],
        "Prompts found in the embedding cache";
    CACHE_MISSES Counter, "llm_dit_embedding_cache_misses_total", [],
        "Prompts not found in the embedding cache";
    CACHE_ENTRIES Gauge, "llm_dit_embedding_cache_entries", [],
        "Prompts in the embedding cache";
    CACHE_BYTES Gauge, "llm_dit_embedding_cache_bytes", [],
        "Size of the embedding cache";
    CACHE_LIMIT Gauge, "llm_dit_embedding_cache_limit_bytes", [],
        "Maximum size of the embedding cache";
    BACKEND_UP Gauge, "llm_dit_backend_up", ["kind", "backend"],
        "1 if the backend gets requests, 0 if it is unhealthy";
    BACKEND_REQUESTS Gauge, "llm_dit_backend_requests", ["kind", "backend"],
        "Requests of this gateway in flight at the backend";
    BACKEND_FAILURES Counter, "llm_dit_backend_failures_total", ["kind"],
        "Requests that failed because of a backend";
    BACKEND_RETRIES Counter, "llm_dit_backend_retries_total", ["kind"],
        "Requests that were sent to another backend";
    JOBS_KNOWN Gauge, "llm_dit_jobs", ["state"],
        "Jobs that the gateway remembers, by state";
    JOBS_ENDED Counter, "llm_dit_jobs_total", ["outcome"],
        "Jobs that ended, by outcome";
    JOBS_OLDEST Gauge, "llm_dit_jobs_oldest_waiting_seconds", [],
        "How long the oldest queued job has waited; 0 if none waits";
    QUEUE_CONNECTED Gauge, "llm_dit_shared_queue_connected", [],
        "0 if the server of the shared queue cannot be reached, otherwise 1";
    QUEUE_REDELIVERIES Counter, "llm_dit_shared_queue_redeliveries_total", [],
        "Jobs that this worker took over because the lease of another one had expired";
    QUEUE_LATE_RESULTS Counter, "llm_dit_shared_queue_late_results_total", [],
        "Images of this worker that were refused because the job had another owner or had ended";
}

impl Metric {
    pub(super) fn describe(&self) {
        let Self { name, help, .. } = *self;
        match self.kind {
            Counter => ::metrics::describe_counter!(name, help),
            Gauge => ::metrics::describe_gauge!(name, help),
            Histogram(_) => ::metrics::describe_histogram!(name, help),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_as_prometheus_wants_them() {
        for (i, metric) in ALL.iter().enumerate() {
            let Metric { name, kind, help, .. } = *metric;
            assert!(ALL[..i].iter().all(|other| other.name != name), "{name} is there twice");
            assert_eq!(kind == Counter, name.ends_with("_total"), "{name}");
            assert!(name.starts_with("llm_dit_") || name.starts_with("process_"), "{name}");
            assert!(!help.is_empty() && !help.ends_with('.'), "{name}");
            if let Histogram(bounds) = kind {
                assert!(bounds.is_sorted() && bounds.len() < 20, "{name}");
            }
        }
    }
}
