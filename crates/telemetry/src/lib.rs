//! What a process tells of its work: metrics for Prometheus, and the id of a request that logs of all
//! services share.

pub mod metrics;
pub mod request_id;
