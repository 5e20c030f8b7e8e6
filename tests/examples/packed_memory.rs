//! How much memory a packed transformer takes: makes a GGUF file of Z-Image's shapes in the mixture that
//! is called Q4_K_M, loads it on the CPU, and makes one step of a 256x256 image.
//!
//!     cargo run --release -p llm-dit-tests --example packed_memory -- FILE
//!
//! The file has 5 GB; one that is there already is used. Blocks are random with small scales, so the
//! weights mean nothing.

use std::{env, error::Error, path::PathBuf, time::Instant};

use candle_core::{DType, Device, Tensor};
use llm_dit_device::meter;
use llm_dit_tests::true_shapes::{self, Mix};
use llm_dit_weights::{Checkpoint, Packing, PartFiles};
use llm_dit_z_image::dit::{self, Config, Dit};

fn main() -> Result<(), Box<dyn Error>> {
    let path = PathBuf::from(env::args().nth(1).ok_or("usage: packed_memory FILE")?);
    let config = Config::z_image();
    if !path.exists() {
        true_shapes::transformer(&path, Mix::Q4KM)?;
    }
    let size = path.metadata()?.len();
    let device = Device::Cpu;
    meter::reset_peak(&device);
    let begun = Instant::now();
    let part = PartFiles::File(path);
    let naming = dit::names::naming;
    let weights = Checkpoint::open(&part, naming, &device, DType::F32, Packing::Packed)?;
    let dit = Dit::load(config.clone(), &weights)?;
    let loaded = meter::memory(&device).ok_or("this system does not tell a process's memory")?;
    println!("loaded in {:.1} s", begun.elapsed().as_secs_f64());
    let caption = Tensor::ones((32, config.cap_feat_dim), DType::F32, &device)?;
    let latents = Tensor::ones((16, 32, 32), DType::F32, &device)?;
    let begun = Instant::now();
    let conditioning = dit.condition(&[caption], &[(32, 32)])?;
    let out = dit.forward(&[latents], &[0.5], &conditioning)?;
    let largest = out[0].abs()?.flatten_all()?.max(0)?.to_scalar::<f32>()?;
    println!("one step in {:.1} s, largest value {largest}", begun.elapsed().as_secs_f64());
    let stepped = meter::memory(&device).ok_or("this system does not tell a process's memory")?;
    let part = |bytes: u64| bytes as f64 / size as f64;
    println!(
        "file {:.2} GB; peak {:.3} times that while loading, {:.3} with one step",
        size as f64 / 1e9,
        part(loaded.peak),
        part(stepped.peak)
    );
    Ok(())
}
