//! The gateway: HTTP in front of the encoder and diffusion services.
//!
//! It never holds a tensor: the encoder's answer is piped into the diffusion service's request
//! chunk by chunk. It keeps no state between requests, and it depends on no tensor library, so that
//! it runs where no model does.

mod app;
mod backends;
mod body;
mod error;
mod generate;
mod health;
mod pipe;
mod problem;
mod request;

pub use app::{app, run};
pub use backends::{DEFAULT_DIFFUSION, DEFAULT_ENCODER, GatewayOptions};
pub use error::Error;
