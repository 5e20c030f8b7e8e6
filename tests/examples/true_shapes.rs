//! Writes a model of Z-Image's shapes with random values, quantized and not, to measure with.
//!
//!     cargo run --release -p llm-dit-tests --example true_shapes -- FOLDER [FILE...]
//!
//! Files: dit-q8_0.gguf, dit-q4_k_m.gguf, dit-q3_k_m.gguf, encoder-q4_k_m.gguf, encoder-q8_0.gguf,
//! vae.safetensors; all, if none is named. Together 23 GB.

use std::{env, error::Error, path::PathBuf};

use llm_dit_tests::true_shapes::{Mix, text_encoder, transformer, vae};

const FILES: [&str; 6] = [
    "dit-q8_0.gguf",
    "dit-q4_k_m.gguf",
    "dit-q3_k_m.gguf",
    "encoder-q4_k_m.gguf",
    "encoder-q8_0.gguf",
    "vae.safetensors",
];

fn main() -> Result<(), Box<dyn Error>> {
    let mut args = env::args().skip(1);
    let folder = PathBuf::from(args.next().ok_or("usage: true_shapes FOLDER [FILE...]")?);
    let named: Vec<String> = args.collect();
    if let Some(unknown) = named.iter().find(|name| !FILES.contains(&name.as_str())) {
        return Err(format!("unknown file {unknown}; known are {}", FILES.join(", ")).into());
    }
    for file in FILES.into_iter().filter(|file| named.is_empty() || named.iter().any(|n| n == file))
    {
        let path = folder.join(file);
        let mix = if file.contains("q8_0") {
            Mix::Q8_0
        } else if file.contains("q4_k_m") {
            Mix::Q4KM
        } else {
            Mix::Q3KM
        };
        match file.split('-').next() {
            Some("dit") => transformer(&path, mix)?,
            Some("encoder") => text_encoder(&path, mix)?,
            _ => vae(&path)?,
        }
        println!("{}: {:.2} GB", path.display(), path.metadata()?.len() as f64 / 1e9);
    }
    Ok(())
}
