//! Z-Image: the diffusion transformer, its schedulers, the VAE and the loop from embeddings to pixels.
//!
//! [`ZImage`] implements [`llm_dit_engine::image::ImageGenerator`] and knows no transport: no tokio,
//! no tonic. Names in [`dit`] and [`vae`] mirror the checkpoint.

mod denoiser;
pub mod dit;
mod error;
mod guidance;
mod latent_map;
mod load;
mod lora;
mod measure;
mod model_index;
pub mod noise;
pub mod parts;
mod pipeline;
pub mod schedule;
mod scheduler_config;
mod source_latents;
pub mod vae;
mod variation;
mod work;

pub use denoiser::Denoiser;
pub use error::DrawError;
pub use latent_map::latent_map;
pub use load::{
    DiffusionOptions, defaults, load, load_all, load_dit, load_model, load_vae_decoder,
    load_vae_encoder, synthetic_model,
};
pub use lora::read_loras;
pub use measure::measure;
pub use pipeline::ZImage;
pub use work::{Largest, released_work};
