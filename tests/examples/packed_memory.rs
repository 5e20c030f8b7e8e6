//! How much memory a packed transformer takes: makes a GGUF file of Z-Image's shapes in the mixture that
//! is called Q4_K_M, loads it on the CPU, and makes one step of a 256x256 image.
//!
//!     cargo run --release -p llm-dit-tests --example packed_memory -- FILE
//!
//! The file has 5 GB; one that is there already is used. Blocks are random with small scales, so the
//! weights mean nothing.

use std::{
    env,
    error::Error,
    fs::File,
    io::{BufWriter, Write as _},
    path::{Path, PathBuf},
    time::Instant,
};

use candle_core::{DType, Device, Tensor};
use llm_dit_device::meter;
use llm_dit_kernels::Format;
use llm_dit_tests::packed::{Random, header, pack};
use llm_dit_weights::{Checkpoint, Packing, PartFiles};
use llm_dit_z_image::dit::{self, Config, Dit};

/// The type of a tensor in a Q4_K_M file of ComfyUI-GGUF: embedders and refiners are left alone.
fn format(name: &str, shape: &[usize]) -> Format {
    let quantized = name.starts_with("layers.") && name.ends_with(".weight");
    match shape {
        [_, _] if !quantized => Format::Bf16,
        [_, _] if name.contains(".to_") && !name.contains("to_out") => Format::Q5K,
        [_, _] if name.contains(".w2.") => Format::Q6K,
        [_, _] => Format::Q4K,
        _ => Format::F32,
    }
}

/// The largest piece that is made of random blocks; it is repeated.
const PIECE: usize = 1 << 16;

fn write(path: &Path, config: &Config) -> Result<(), Box<dyn Error>> {
    let tensors = dit::tensors(config);
    let entries: Vec<(&str, &[usize], Format, usize)> = tensors
        .iter()
        .map(|(name, shape)| {
            let format = format(name, shape);
            let rows: usize = shape.iter().rev().skip(1).product();
            let row = shape.last().and_then(|&columns| format.row_bytes(columns));
            (name.as_str(), shape.as_slice(), format, rows * row.unwrap_or(0))
        })
        .collect();
    let mut file = BufWriter::new(File::create(path)?);
    file.write_all(&header(&[], entries.iter().copied()))?;
    let mut random = Random(1);
    let values: Vec<f32> = (0..PIECE).map(|_| random.normal(0.02)).collect();
    for (name, shape, format, bytes) in entries {
        let is_norm = shape.len() == 1 && name.ends_with("weight");
        let piece = if is_norm {
            pack(format, &vec![1.0; PIECE], &mut random)
        } else {
            pack(format, &values, &mut random)
        };
        let mut left = bytes;
        while left > 0 {
            let part = left.min(piece.len());
            file.write_all(&piece[..part])?;
            left -= part;
        }
        file.write_all(&vec![0; bytes.next_multiple_of(32) - bytes])?;
    }
    Ok(file.flush()?)
}

fn main() -> Result<(), Box<dyn Error>> {
    let path = PathBuf::from(env::args().nth(1).ok_or("usage: packed_memory FILE")?);
    let config = Config::z_image();
    if !path.exists() {
        write(&path, &config)?;
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
