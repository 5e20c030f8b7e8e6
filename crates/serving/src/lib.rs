//! The shell around a service: flags, logs, the thread that owns the model, gRPC serving and
//! connecting, shutdown. It knows no models.

pub mod args;
pub mod boot;
pub mod client;
pub mod grpc;
pub mod shutdown;
pub mod telemetry;
pub mod worker;

pub use client::Remote;
pub use worker::{Alone, Answer, Ticket, Together, Worker};
