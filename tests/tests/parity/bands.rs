//! The autoencoder in bands of rows gives the image of the whole, also where the statistics of its
//! norms differ most from place to place. The issue asks for 40 dB; nothing is computed from a part
//! of the image only, so that rounding is all that differs.

use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use llm_dit_tests::goldens::{Goldens, relative_error};
use llm_dit_z_image::{
    load_vae_decoder, load_vae_encoder,
    noise::randn,
    vae::{Config, Cost, Tiling},
};

const BOUND: f64 = 1e-5;

/// The trained autoencoder of the demo model, and one with random weights.
fn autoencoders() -> [PathBuf; 2] {
    let demo = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/demo/vae");
    [demo, Goldens::tiny().join("vae")]
}

fn values(x: &Tensor) -> Vec<f32> {
    x.flatten_all().and_then(|x| x.to_vec1()).expect("f32")
}

/// Of values from -1 to 1.
fn psnr(a: &[f32], b: &[f32]) -> f64 {
    let square = |(a, b): (&f32, &f32)| f64::from(a.clamp(-1.0, 1.0) - b.clamp(-1.0, 1.0)).powi(2);
    let error = a.iter().zip(b).map(square).sum::<f64>() / a.len() as f64;
    10.0 * (4.0 / error).log10()
}

/// Noise whose size grows from 0 at the left to 8 at the right, with a step and an offset at a third
/// of the height: every band and every tile has other statistics than the image.
fn uneven(shape: (usize, usize, usize, usize)) -> Tensor {
    let (n, channels, height, width) = shape;
    let mut values = randn(7, n * channels * height * width);
    for (i, value) in values.iter_mut().enumerate() {
        let (x, y) = (i % width, i / width % height);
        let size = 8.0 * x as f32 / width as f32;
        *value = *value * size * if y * 3 < height { 0.1 } else { 1.0 };
        *value += if y * 3 < height { 2.0 } else { -1.0 };
    }
    Tensor::from_vec(values, shape, &Device::Cpu).expect("as many")
}

/// Budgets from nearly the whole down to the least, each with the rows that it makes.
fn budgets(config: &Config, size: (usize, usize)) -> Vec<u64> {
    let cost = Cost::new(&Device::Cpu, DType::F32, 1);
    let whole = Tiling::Auto.decode_bytes(config, cost, size, u64::MAX);
    let budgets: Vec<u64> = [whole - 1, whole / 2, whole / 3, 0].into();
    let rows = |budget: &u64| Tiling::Auto.rows(config, cost, size, *budget);
    let rows: Vec<Option<usize>> = budgets.iter().map(rows).collect();
    assert!(rows.iter().all(Option::is_some), "not all of {rows:?} are bands");
    budgets
}

#[test]
fn an_image_decoded_in_bands_is_that_of_the_whole() {
    for folder in autoencoders() {
        let decoder = load_vae_decoder(&folder, &Device::Cpu).expect("a decoder");
        let config = decoder.config().clone();
        for (n, height, width) in [(1, 28, 22), (2, 19, 9)] {
            let z = uneven((n, config.latent_channels, height, width));
            let whole = values(&decoder.decode(&z).expect("an image"));
            let scale = config.scale_factor();
            for budget in budgets(&config, (height * scale, width * scale)) {
                let bands = Tiling::Auto.decode(&decoder, &z, budget).expect("an image");
                let bands = values(&bands);
                let (error, db) = (relative_error(&bands, &whole), psnr(&bands, &whole));
                println!("{height}x{width}, {budget} bytes: {error:.1e}, {db:.0} dB");
                assert!(error <= BOUND && db >= 90.0, "{error:.1e}, {db:.0} dB");
            }
        }
    }
}

#[test]
fn an_image_encoded_in_bands_is_that_of_the_whole() {
    for folder in autoencoders() {
        let encoder = load_vae_encoder(&folder, &Device::Cpu).expect("an encoder");
        let scale = encoder.config().scale_factor();
        for (n, height, width) in [(1, 28, 22), (2, 19, 9)] {
            let image = (uneven((n, 3, height * scale, width * scale)) / 8.0).expect("numbers");
            let whole = encoder.encode(&image).expect("a posterior");
            for budget in [1 << 20, 0] {
                let bands = Tiling::Auto.encode(&encoder, &image, budget).expect("a posterior");
                for (bands, whole) in [(&bands.mean, &whole.mean), (&bands.logvar, &whole.logvar)] {
                    let error = relative_error(&values(bands), &values(whole));
                    println!("{height}x{width}, {budget} bytes: {error:.1e}");
                    assert!(error <= BOUND, "{error:.1e}");
                }
            }
        }
    }
}

/// Why bands are the default: tiles norm each by itself.
#[test]
fn tiles_miss_what_bands_keep() {
    let [folder, _] = autoencoders();
    let decoder = load_vae_decoder(&folder, &Device::Cpu).expect("a decoder");
    let z = uneven((1, decoder.config().latent_channels, 40, 40));
    let whole = values(&decoder.decode(&z).expect("an image"));
    let against =
        |tiling: Tiling| psnr(&values(&tiling.decode(&decoder, &z, 0).expect("an image")), &whole);
    let (tiles, bands) = (against(Tiling::On), against(Tiling::Auto));
    println!("tiles {tiles:.1} dB, bands {bands:.1} dB");
    assert!(tiles < 40.0 && bands >= 90.0);
}
