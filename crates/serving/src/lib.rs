//! The shell around a service: flags, logs, the thread that owns the model, gRPC serving and
//! connecting, shutdown. It knows no models.

pub mod args;
pub mod boot;
pub mod client;
pub mod connections;
pub mod deadline;
pub mod door;
pub mod grpc;
mod pulse;
pub mod security;
pub mod shutdown;
pub mod telemetry;
pub mod worker;

pub use client::Remote;
pub use deadline::Deadline;
pub use door::Door;
pub use pulse::Pulse;
pub use security::{Credentials, Security};
pub use shutdown::Grace;
pub use worker::{Alone, Answer, Ticket, Together, Worker};
