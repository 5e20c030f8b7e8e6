//! The two services from outside: real gRPC on port 0, mostly over fake engines.
//!
//! One program, since linking costs more than what most of these tests do.

mod diffusion;
mod encoder;
mod heylook;
mod lifecycle;
mod loras;
mod memory;
mod previews;
mod pull;
mod refusals;
