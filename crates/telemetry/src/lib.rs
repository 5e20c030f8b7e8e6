//! Telemetry of a process: metrics for Prometheus, and the id of a request that the logs of all
//! services share.

pub mod metrics;
pub mod request_id;
