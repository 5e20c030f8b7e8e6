//! What a picture's file costs: `cargo bench -p llm-dit-tests --bench png`.
//!
//! Prints milliseconds on one core and bytes, for what a service writes and for PNG's other filters,
//! over the demo model's pictures enlarged to 1024x1024: with grain, which is the hard part of a
//! photograph, and without.

use std::time::Instant;

use diffusion_service::{engine::Picture, picture::encode_png};
use image::{
    ExtendedColorType, ImageEncoder as _, RgbImage,
    codecs::png::{CompressionType, FilterType, PngEncoder},
    imageops,
};
use llm_dit_recipe::Recipe;
use llm_dit_testkit::repository;

const SIDE: u32 = 1024;
const PICTURES: usize = 4;
/// The best of so many counts, since other programs can only make it slower.
const ROUNDS: usize = 7;

fn main() {
    for (kind, grain) in [("with grain", 4.0), ("smooth", 0.0)] {
        let pictures = pictures(grain);
        let ours = |p: &Picture| encode_png(p, &Recipe::default()).expect("encodes").to_vec();
        report(&format!("{kind}, as served"), &pictures, ours);
        for filter in [
            FilterType::Sub,
            FilterType::Up,
            FilterType::Avg,
            FilterType::Paeth,
            FilterType::Adaptive,
        ] {
            report(&format!("{kind}, {filter:?}"), &pictures, |p| {
                let mut file = Vec::new();
                PngEncoder::new_with_quality(&mut file, CompressionType::Fast, filter)
                    .write_image(&p.rgb, p.width, p.height, ExtendedColorType::Rgb8)
                    .expect("encodes");
                file
            });
        }
    }
}

fn pictures(grain: f32) -> Vec<Picture> {
    let folder = repository("tests/goldens/pictures");
    let mut files: Vec<_> = std::fs::read_dir(folder)
        .expect("goldens")
        .map(|entry| entry.expect("readable").path())
        .filter(|path| path.extension().is_some_and(|end| end == "png"))
        .collect();
    files.sort();
    files
        .iter()
        .take(PICTURES)
        .map(|path| enlarge(&image::open(path).expect("a PNG").into_rgb8(), grain))
        .collect()
}

/// With noise of about half so many levels, as a camera's or a model's.
fn enlarge(small: &RgbImage, grain: f32) -> Picture {
    let mut large = imageops::resize(small, SIDE, SIDE, imageops::FilterType::Lanczos3);
    let mut state = 1u64;
    let mut uniform = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (state >> 40) as f32 / (1u32 << 24) as f32
    };
    for value in large.iter_mut() {
        let noise = (uniform() + uniform() + uniform() - 1.5) * grain;
        *value = (f32::from(*value) + noise).round().clamp(0.0, 255.0) as u8;
    }
    Picture { width: SIDE, height: SIDE, rgb: large.into_raw() }
}

fn report(name: &str, pictures: &[Picture], encode: impl Fn(&Picture) -> Vec<u8>) {
    let (mut seconds, mut bytes) = (0.0, 0);
    for picture in pictures {
        let mut best = f64::INFINITY;
        for _ in 0..ROUNDS {
            let started = Instant::now();
            let file = std::hint::black_box(encode(picture));
            best = best.min(started.elapsed().as_secs_f64());
            bytes += file.len() / ROUNDS;
        }
        seconds += best;
    }
    let count = pictures.len() as f64;
    println!("{name:22} {:7.1} ms {:8.0} bytes", 1e3 * seconds / count, bytes as f64 / count);
}
