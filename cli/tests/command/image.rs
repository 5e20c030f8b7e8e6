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

#[test]
fn what_a_mask_keeps_is_the_sources_and_the_recipe_draws_it_again() {
    let room = Room::new();
    source(&room, "s.png", 96, 64);
    let mask =
        image::GrayImage::from_fn(48, 32, |x, _| image::Luma([if x < 24 { 0 } else { 255 }]));
    mask.save(room.path("m.png")).expect("ours");
    let args = ["generate", "a red apple", "--image", "s.png", "--mask", "m.png"];
    let said = room.succeed(&small(&[&args[..], &["--mask-blur", "0", "-o", "a.png"]].concat()));
    assert!(said.contains("step 4/4"), "all of it by default: {said}");
    let original = image::open(room.path("s.png")).expect("ours").into_rgb8();
    let drawn = image::open(room.path("a.png")).expect("drawn").into_rgb8();
    for (x, y, pixel) in drawn.enumerate_pixels().filter(|(x, ..)| *x < 48) {
        assert_eq!(pixel, original.get_pixel(x, y), "{x} {y}");
    }
    assert!((48..96).any(|x| drawn.get_pixel(x, 30) != original.get_pixel(x, 30)));
    let recipe = llm_dit_recipe::read(room.read("a.png").into()).expect("a PNG");
    let recipe = recipe.expect("a recipe");
    assert_eq!(recipe.settings.mask.as_deref(), Some("m.png"));
    assert_eq!((recipe.settings.strength, recipe.settings.mask_blur), (Some(1.0), Some(0.0)));
    assert!(recipe.sha256.contains_key("mask"));
    room.succeed(&["generate", "--from", "a.png", "-o", "b.png"]);
    assert_eq!(room.read("a.png"), room.read("b.png"));

    let inverted = [&args[..], &["--mask-invert", "--only-masked", "8", "-o", "c.png"]].concat();
    room.succeed(&small(&[&inverted[..], &["--mask-blur", "0", "-W", "64", "-H", "64"]].concat()));
    let other = image::open(room.path("c.png")).expect("drawn").into_rgb8();
    assert_eq!(other.dimensions(), (96, 64), "of the source");
    for (x, y, pixel) in other.enumerate_pixels().filter(|(x, ..)| *x >= 48) {
        assert_eq!(pixel, original.get_pixel(x, y), "{x} {y}");
    }

    image::GrayImage::new(8, 8).save(room.path("black.png")).expect("ours");
    for (args, words) in [
        (&["generate", "x", "--mask", "m.png"][..], "set --image"),
        (&["generate", "x", "--image", "s.png", "--mask-blur", "2"], "set --mask"),
        (
            &["generate", "x", "--image", "s.png", "--mask", "black.png"],
            "black.png: the mask has no",
        ),
        (&["generate", "x", "--image", "s.png", "--mask", "no.png"], "no.png"),
    ] {
        let said = room.fail(64, &small(args));
        assert!(said.contains(words), "{said}");
    }
}

#[test]
fn an_image_is_extended_and_its_own_part_stays_as_it_was() {
    let room = Room::new();
    source(&room, "s.png", 64, 64);
    let args = ["generate", "a red apple", "--image", "s.png", "--mask-blur", "0", "-o", "a.png"];
    room.succeed(&small(&[&args[..], &["--outpaint", "left=32,bottom=16"]].concat()));
    let original = image::open(room.path("s.png")).expect("ours").into_rgb8();
    let drawn = image::open(room.path("a.png")).expect("drawn").into_rgb8();
    assert_eq!(drawn.dimensions(), (96, 80));
    for (x, y, pixel) in original.enumerate_pixels() {
        assert_eq!(drawn.get_pixel(32 + x, y), pixel, "{x} {y}");
    }
    let recipe = llm_dit_recipe::read(room.read("a.png").into()).expect("a PNG");
    let outpaint = recipe.expect("a recipe").settings.outpaint;
    assert_eq!(outpaint.as_deref(), Some("left=32,right=0,top=0,bottom=16"));
    room.succeed(&["generate", "--from", "a.png", "-o", "b.png"]);
    assert_eq!(room.read("a.png"), room.read("b.png"));
    for (args, words) in [
        (&["generate", "x", "--outpaint", "left=8"][..], "set --image"),
        (&["generate", "x", "--image", "s.png", "--outpaint", "left=x"], "use 0 to 4096"),
        (
            &["generate", "x", "--image", "s.png", "--mask", "s.png", "--outpaint", "left=8"],
            "exclude each other",
        ),
    ] {
        let said = room.fail(64, &small(args));
        assert!(said.contains(words), "{said}");
    }
}
