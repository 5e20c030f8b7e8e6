//! What the models compute, against diffusers and transformers in float32, and against themselves
//! where the same picture is made in another way.
//!
//! One program, since linking costs more than what most of these tests do; name a module to run that
//! alone: `cargo test --release -p llm-dit-tests --test parity tensors`.

mod bands;
mod batches;
mod chat;
mod configs;
mod convergence;
mod forms;
mod inpaint;
mod lora_kinds;
mod loras;
mod models;
mod packed;
mod packed_forms;
mod passes;
mod pictures;
mod previews;
mod resize;
mod schedulers;
mod tensors;
