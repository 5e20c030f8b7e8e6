//! The shell around a service: flags, the thread that owns the model, gRPC serving and connecting,
//! shutdown, and telemetry: logs, metrics, traces. It knows no models.

pub mod args;
pub mod boot;
pub mod client;
pub mod connections;
pub mod deadline;
pub mod grpc;
pub mod http2;
pub mod listener;
mod middleware;
pub mod pace;
pub mod probe;
pub mod propagate;
pub mod security;
pub mod shutdown;
pub mod telemetry;

pub use client::Remote;
pub use deadline::Deadline;
pub use listener::BoundListener;
pub use middleware::instrument;
pub use security::{Credentials, Security};
pub use shutdown::Grace;
