//! Every metric there is. `docs/observability.md` says the same for people; a test compares.

use Kind::{Counter, Gauge, Histogram};

/// One family of time series.
#[derive(Clone, Copy, Debug)]
pub struct Metric {
    /// As Prometheus wants names: the unit at the end, `_total` for what only grows.
    pub name: &'static str,
    pub kind: Kind,
    /// Their values come from a short list or from who runs the program, never from a client.
    pub labels: &'static [&'static str],
    pub help: &'static str,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Kind {
    Counter,
    Gauge,
    /// With the upper bounds of its buckets.
    Histogram(&'static [f64]),
}

/// From a tokenizer's time to that of a large picture.
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
        "1, with the version as a label";
    PROCESS_START Gauge, "process_start_time_seconds", [],
        "When the process began, in seconds since 1970";
    PROCESS_MEMORY Gauge, "process_resident_memory_bytes", [],
        "Memory of the process that is in RAM";
    PROCESS_FDS Gauge, "process_open_fds", [],
        "Open files and connections of the process";

    HTTP_REQUESTS Counter, "llm_dit_http_requests_total", ["method", "route", "status"],
        "HTTP requests that were answered, or whose client left (499)";
    HTTP_SECONDS Histogram(SECONDS), "llm_dit_http_request_seconds", ["method", "route"],
        "From an HTTP request's head to the end of its answer";
    GRPC_REQUESTS Counter, "llm_dit_grpc_requests_total", ["grpc_service", "grpc_method", "grpc_code"],
        "gRPC calls that were answered, or whose client left (Cancelled)";
    GRPC_SECONDS Histogram(SECONDS), "llm_dit_grpc_request_seconds", ["grpc_service", "grpc_method"],
        "From a gRPC call's head to its status";

    CONNECTIONS_REFUSED Counter, "llm_dit_connections_refused_total", [],
        "Connections that were closed because there were as many as there may be";

    QUEUE_DEPTH Gauge, "llm_dit_queue_depth", ["worker"],
        "Jobs that wait for the thread that owns a model";
    QUEUE_CAPACITY Gauge, "llm_dit_queue_capacity", ["worker"],
        "Jobs that may wait before more are refused";
    QUEUE_RUNNING Gauge, "llm_dit_queue_running", ["worker"],
        "Jobs that are being done";
    QUEUE_WAIT Histogram(SECONDS), "llm_dit_queue_wait_seconds", ["worker"],
        "How long jobs waited for their turn";
    QUEUE_REJECTIONS Counter, "llm_dit_queue_rejections_total", ["worker"],
        "Jobs that were refused because the queue was full";
    QUEUE_CANCELS Counter, "llm_dit_queue_cancels_total", ["worker"],
        "Jobs whose caller left while they waited";
    BATCH_SIZE Histogram(JOBS), "llm_dit_batch_size", ["worker"],
        "Jobs that were done in one go";
    TURN_SECONDS Histogram(SECONDS), "llm_dit_turn_seconds", ["worker"],
        "How long the model was busy with what it does in one go";
    WORKER_PANICS Counter, "llm_dit_worker_panics_total", ["worker"],
        "Jobs, or batches, that ended in a panic";

    STAGE_SECONDS Histogram(SECONDS), "llm_dit_stage_seconds", ["stage"],
        "Seconds by stage of the work";
    STEPS Counter, "llm_dit_steps_total", [],
        "Forward passes of the transformer, counted for each picture";
    STEP_SECONDS Histogram(SECONDS), "llm_dit_step_seconds", [],
        "One forward pass; of a batch, every picture's";
    PROMPTS Counter, "llm_dit_prompts_total", ["outcome"],
        "Prompts that were queued to be encoded, by outcome";
    PROMPT_TOKENS Counter, "llm_dit_prompt_tokens_total", [],
        "Tokens that were encoded";
    PROMPTS_CUT Counter, "llm_dit_prompts_truncated_total", [],
        "Prompts that were longer than was allowed";
    PICTURES Counter, "llm_dit_pictures_total", ["outcome"],
        "Pictures that were queued at a diffusion service, by outcome";
    TENSOR_BYTES Counter, "llm_dit_tensor_bytes_total", ["service", "direction"],
        "Bytes of embeddings, latents and pictures that a service received or sent";
    LORA_CHANGES Counter, "llm_dit_lora_changes_total", ["outcome"],
        "Changes of the LoRAs of a running service";
    LORAS_ACTIVE Gauge, "llm_dit_loras_active", [],
        "LoRAs that the next picture is made with";

    MEMORY_USED Gauge, "llm_dit_device_memory_used_bytes", ["service", "device"],
        "In tensors now; on the CPU, memory of the process";
    MEMORY_PEAK Gauge, "llm_dit_device_memory_peak_bytes", ["service", "device"],
        "The most that was in tensors since the start";
    MEMORY_RESERVED Gauge, "llm_dit_device_memory_reserved_bytes", ["service", "device"],
        "The most that was taken from the device, by everybody";
    MEMORY_SIZE Gauge, "llm_dit_device_memory_size_bytes", ["service", "device"],
        "What the device has";

    GATEWAY_PICTURES Counter, "llm_dit_gateway_pictures_total", ["outcome"],
        "Pictures that the gateway was asked for, by outcome";
    GATEWAY_SECONDS Histogram(SECONDS), "llm_dit_gateway_picture_seconds", [],
        "From request to picture, of those that were made";
    GATEWAY_RUNNING Gauge, "llm_dit_gateway_pictures_in_progress", [],
        "Pictures that are being asked for";
    GATEWAY_LIMIT Gauge, "llm_dit_gateway_pictures_limit", [],
        "Pictures that may be asked for at the same time";
    GATEWAY_REJECTIONS Counter, "llm_dit_gateway_rejections_total", ["what"],
        "Requests that the gateway had no room for";
    CACHE_HITS Counter, "llm_dit_embedding_cache_hits_total", [],
        "Prompts whose embeddings were remembered";
    CACHE_MISSES Counter, "llm_dit_embedding_cache_misses_total", [],
        "Prompts whose embeddings had to be computed";
    CACHE_ENTRIES Gauge, "llm_dit_embedding_cache_entries", [],
        "Prompts whose embeddings are remembered";
    CACHE_BYTES Gauge, "llm_dit_embedding_cache_bytes", [],
        "Bytes of the embeddings that are remembered";
    CACHE_LIMIT Gauge, "llm_dit_embedding_cache_limit_bytes", [],
        "Bytes that may be";
    BACKEND_UP Gauge, "llm_dit_backend_up", ["kind", "backend"],
        "1 where a service takes requests, 0 where it is left alone";
    BACKEND_REQUESTS Gauge, "llm_dit_backend_requests", ["kind", "backend"],
        "Requests of this gateway that a service is busy with";
    BACKEND_FAILURES Counter, "llm_dit_backend_failures_total", ["kind"],
        "Times that a service failed a request";
    BACKEND_RETRIES Counter, "llm_dit_backend_retries_total", ["kind"],
        "Requests that went on to another machine";
    JOBS_KNOWN Gauge, "llm_dit_jobs", ["state"],
        "Jobs that the gateway knows, by state";
    JOBS_ENDED Counter, "llm_dit_jobs_total", ["outcome"],
        "Jobs that have ended, by outcome";
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
