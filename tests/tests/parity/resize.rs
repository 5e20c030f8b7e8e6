//! Init images are resized as Pillow does it: sources that grow, shrink, and change one side.

use image::RgbImage;
use llm_dit_pictures::resize;
use llm_dit_tests::goldens::Goldens;

/// Of 255, per value.
const BOUND: u8 = 1;
/// The share of values that may differ at all.
const SHARE: f64 = 0.01;

fn image(goldens: &Goldens, name: &str) -> RgbImage {
    let tensor = goldens.tensor(name);
    let (height, width, _) = tensor.dims3().expect("height, width, channels");
    let bytes = tensor.flatten_all().and_then(|x| x.to_vec1()).expect("goldens are U8 on the CPU");
    RgbImage::from_raw(width as u32, height as u32, bytes).expect("three bytes a pixel")
}

#[test]
fn images_are_resized_as_pillow_resizes_them() {
    let goldens = Goldens::open("resize.safetensors");
    for k in 0..8 {
        let source = image(&goldens, &format!("source_{k}"));
        let expected = image(&goldens, &format!("resized_{k}"));
        let (width, height) = expected.dimensions();
        let resized = resize(source, width, height).expect("both have pixels");
        let pairs = resized.as_raw().iter().zip(expected.as_raw());
        let apart: Vec<_> = pairs.map(|(a, b)| a.abs_diff(*b)).filter(|d| *d > 0).collect();
        let share = apart.len() as f64 / expected.as_raw().len() as f64;
        let worst = apart.iter().copied().max().unwrap_or(0);
        println!("{k}: {width}x{height}: {worst} at most, {:.2} % of values", share * 100.0);
        assert!(worst <= BOUND && share <= SHARE, "{k}: {worst}, {share}");
    }
}
