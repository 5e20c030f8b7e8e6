//! Pictures drawn from pictures.

use image::{Rgb, RgbImage};

use crate::support::{Room, png_size};

const SMALL: [&str; 6] = ["--steps", "4", "--seed", "5", "--guidance-scale", "0"];

fn small<'a>(args: &[&'a str]) -> Vec<&'a str> {
    args.iter().copied().chain(SMALL).collect()
}

fn source(room: &Room, name: &str, width: u32, height: u32) {
    let colour = |x, y| Rgb([(x * 3) as u8, (y * 5) as u8, 90]);
    RgbImage::from_fn(width, height, colour).save(room.path(name)).expect("ours");
}

#[test]
fn strength_says_how_much_is_redrawn() {
    let room = Room::new();
    source(&room, "s.png", 70, 100);
    let draw = |strength: &str, output: &str| {
        let image = ["generate", "a red apple", "--image", "s.png", "--strength", strength];
        let said = room.succeed(&small(&[&image[..], &["-o", output]].concat()));
        (said, room.pixels(output))
    };
    let (said, little) = draw("0.25", "little.png");
    // The source's own size, cut to multiples of 16, and one step of four.
    assert!(said.contains("step 1/1") && said.contains("64x96"), "{said}");
    assert_eq!(png_size(&room.read("little.png")), (64, 96));
    let (said, all) = draw("1", "all.png");
    assert!(said.contains("step 4/4"), "{said}");
    let original = image::open(room.path("s.png")).expect("ours");
    let original = original.resize_exact(64, 96, image::imageops::FilterType::Lanczos3);
    let original = original.into_rgb8().into_raw();
    let distance = |a: &[u8]| -> u64 {
        a.iter().zip(&original).map(|(a, b)| u64::from(a.abs_diff(*b)).pow(2)).sum()
    };
    assert!(2 * distance(&little) < distance(&all), "{} {}", distance(&little), distance(&all));
    for scheduler in ["flow_heun", "dpm_solver", "unipc"] {
        let args = ["generate", "x", "--image", "s.png", "--scheduler", scheduler, "-o", "x.png"];
        room.succeed(&small(&args));
        assert_ne!(room.pixels("x.png"), all);
    }

    let said = room.fail(64, &small(&["generate", "x", "--image", "s.png", "--strength", "0"]));
    assert!(said.contains("leaves none of the 4 steps"), "{said}");
}

#[test]
fn the_source_must_be_the_same_to_draw_again() {
    let room = Room::new();
    source(&room, "s.jpg", 96, 64);
    room.succeed(&small(&["generate", "x", "--image", "s.jpg", "-o", "a.png"]));
    room.succeed(&["generate", "--from", "a.png", "-o", "b.png"]);
    assert_eq!(room.read("a.png"), room.read("b.png"));
    source(&room, "s.jpg", 96, 80);
    let said = room.fail(64, &["generate", "--from", "a.png", "-o", "c.png"]);
    assert!(said.contains("s.jpg") && said.contains("--image"), "{said}");
    let said = room.fail(64, &["generate", "x", "--image", "a.png", "--latents", "a.png"]);
    assert!(said.contains("exclude each other"), "{said}");
    std::fs::write(room.path("s.jpg"), "no picture").expect("ours");
    let said = room.fail(64, &small(&["generate", "x", "--image", "s.jpg"]));
    assert!(said.contains("s.jpg") && said.contains("not a PNG, JPEG or WebP"), "{said}");
}
