//! Where each part computes, in what, and for how long it keeps its memory.

use crate::support::Room;

const SMALL: [&str; 8] = ["--seed", "3", "--steps", "2", "--width", "128", "--height", "96"];

fn draw(room: &Room, args: &[&str]) -> Vec<u8> {
    room.succeed(&[&["generate", "a red apple", "-o", "image.png"], &SMALL[..], args].concat());
    room.pixels("image.png")
}

/// In dB.
fn psnr(a: &[u8], b: &[u8]) -> f64 {
    let squares: f64 = a.iter().zip(b).map(|(a, b)| (f64::from(*a) - f64::from(*b)).powi(2)).sum();
    10.0 * (255.0 * 255.0 / (squares / a.len() as f64)).log10()
}

#[cfg(not(any(feature = "cuda", feature = "metal")))]
#[test]
fn a_part_goes_nowhere_that_this_build_does_not_know() {
    let room = Room::new();
    for flag in ["--device", "--text-encoder-device", "--dit-device", "--vae-device"] {
        for (device, feature) in [("cuda:1", "cuda"), ("metal", "metal")] {
            let said = room.fail(1, &["generate", "x", flag, device]);
            assert!(said.contains(&format!("no {feature} backend")), "{flag}: {said}");
            assert!(said.contains(&format!("--features {feature}")), "{flag}: {said}");
        }
        let said = room.fail(64, &["generate", "x", flag, "gpu"]);
        assert!(said.contains("auto, cpu, cuda, cuda:N or metal"), "{flag}: {said}");
    }
    let said = room.fail(1, &["encode", "x", "--text-encoder-device", "cuda"]);
    assert!(said.contains("--features cuda"), "{said}");
}

#[test]
fn what_is_read_again_for_each_use_draws_the_same() {
    let room = Room::new();
    let kept = draw(&room, &["--guidance-scale", "1"]);
    assert_eq!(draw(&room, &["--guidance-scale", "1", "--cpu-offload"]), kept);
    let cpu = ["--text-encoder-device", "cpu", "--dit-device", "cpu", "--vae-device", "cpu"];
    assert_eq!(draw(&room, &[&cpu[..], &["--guidance-scale", "1"]].concat()), kept);
}

#[test]
fn each_part_computes_in_its_own_type() {
    let room = Room::new();
    let exact = draw(&room, &[]);
    for flag in ["--vae-dtype", "--text-encoder-dtype", "--dtype"] {
        let rounded = psnr(&draw(&room, &[flag, "bf16"]), &exact);
        println!("{flag} bf16: {rounded:.2} dB from f32");
        assert!((25.0..90.0).contains(&rounded), "{flag}: {rounded} dB");
    }
}

/// The demo model's tiles are 256 pixels long.
#[test]
fn large_pictures_go_through_the_vae_in_tiles() {
    let room = Room::new();
    let draw = |flags: &[&str]| {
        let large =
            ["generate", "x", "-o", "image.png", "--seed", "3", "--steps", "2", "--width", "336"];
        room.succeed(&[&large[..], &["--height", "128"], flags].concat());
        room.pixels("image.png")
    };
    let whole = draw(&["--vae-tiling", "off"]);
    assert_eq!(draw(&[]), whole, "it takes little memory");
    let tiled = psnr(&draw(&["--vae-tiling", "on"]), &whole);
    println!("in tiles: {tiled:.2} dB from one piece");
    assert!((20.0..60.0).contains(&tiled), "{tiled} dB");
}

#[test]
fn a_text_encoder_from_elsewhere_needs_the_rest_of_its_model() {
    let room = Room::new();
    let file = crate::support::demo_model().join("text_encoder/model.safetensors");
    let file = file.to_string_lossy();
    let said = room.fail(64, &["generate", "x", "--text-encoder-path", &file]);
    assert!(said.contains("--model-path") && said.contains("--vae-path"), "{said}");
    let said = room.fail(1, &["generate", "x", "--dit-path", &file]);
    assert!(said.contains("of a Z-Image transformer"), "{said}");
}
