//! Pictures that tell how they were made, and are made again from themselves.

use std::fs;

use image::{DynamicImage, ImageDecoder as _};
use img_parts::png::{Png, PngChunk};
use llm_dit_recipe::Recipe;

use crate::support::Room;

const SMALL: [&str; 6] = ["--width", "64", "--height", "96", "--steps", "2"];

fn recipe(room: &Room, name: &str) -> Recipe {
    llm_dit_recipe::read(room.read(name).into()).expect(name).expect("its parameters")
}

#[test]
fn a_picture_is_made_again_from_itself() {
    let room = Room::new();
    let full = [
        "generate",
        "a \"red\" apple\n\u{1f34e}",
        "--negative-prompt",
        "blurry",
        "--guidance-scale",
        "1.5",
        "--cfg-normalization",
        "1",
        "--cfg-truncation",
        "0.7",
        "--shift",
        "5",
        "--scheduler",
        "unipc",
        "--template",
        "noir",
        "--assistant-content",
        "Sure.",
        "--seed",
        "18446744073709551615",
        "--variation-seed",
        "7",
        "--variation-strength",
        "0.25",
        "--hidden-layer",
        "-3",
        "--max-tokens",
        "400",
    ];
    for name in ["a.png", "a.jpg", "a.webp"] {
        room.succeed(&[&full[..], &SMALL, &["-o", name]].concat());
        room.succeed(&["generate", "--from", name, "-o", "again.png"]);
        room.succeed(&["generate", "--from", name, "-o", "other.png", "--seed", "1"]);
        if name == "a.png" {
            assert_eq!(room.pixels("again.png"), room.pixels(name));
        }
        assert_eq!(room.pixels("again.png"), room.pixels("a.png"), "{name}");
        assert_ne!(room.pixels("other.png"), room.pixels("a.png"), "{name}");
    }
    assert_eq!(room.pixels("a.webp"), room.pixels("a.png"), "WebP loses nothing");
    let (was, is) = (recipe(&room, "a.png"), recipe(&room, "again.png"));
    assert_eq!(was.settings.template.as_deref(), Some("noir"));
    assert_eq!(Recipe { settings: is.settings.clone(), ..was.clone() }, is);
    assert_eq!(was.settings.differences(&is.settings), ["template"], "its texts are enough");
    assert_eq!((was.model.as_deref(), was.dtype.as_deref()), (Some("demo"), Some("f32")));

    // What is typed overrides, and a text that is typed as empty is one.
    let typed = ["--negative-prompt", "", "--steps", "3", "--template", "anime_ghibli"];
    room.succeed(
        &[&["generate", "a blue car", "--from", "a.png", "-o", "b.png"][..], &typed].concat(),
    );
    let b = recipe(&room, "b.png").settings;
    assert_eq!((b.prompt.as_deref(), b.steps, b.width), (Some("a blue car"), Some(3), Some(64)));
    assert_eq!((b.negative_prompt, b.assistant_content), (None, None));
    assert_ne!(b.system_prompt, was.settings.system_prompt);
}

#[test]
fn folders_of_the_machine_are_not_told() {
    let room = Room::new();
    fs::create_dir(room.path("private")).expect("ours");
    DynamicImage::new_rgb8(64, 64).save(room.path("private/s.png")).expect("ours");
    room.succeed(&["encode", "x", "-o", "private/e.safetensors"]);
    let noise = ["generate", "x", "-W", "64", "-H", "64", "-s", "1", "-o", "/dev/null"];
    room.succeed(&[&noise[..], &["--output-latents", "private/l"]].concat());
    let lora = crate::support::demo_model().join("../loras/blueprint.safetensors");
    fs::copy(lora, room.path("private/blueprint.safetensors")).expect("ours");
    let image = room.path("private/s.png");
    let image = image.to_string_lossy();
    for (args, name) in [
        (&["x", "--image", &image][..], "s.png"),
        (&["x", "--image", "./private/../private/s.png"], "s.png"),
        (&["--load-embeddings", "private/e.safetensors"], "e.safetensors"),
        (&["x", "--latents", "private/l"], "\"l\""),
        (&["x", "--lora", "private/blueprint.safetensors"], "blueprint.safetensors"),
    ] {
        for output in ["a.png", "a.jpg", "a.webp"] {
            room.succeed(
                &[&["generate"], args, &["-o", output, "-W", "64", "-H", "64", "-s", "1"]].concat(),
            );
            let told = serde_json::to_string(&recipe(&room, output)).expect("JSON");
            assert!(told.contains(name) && !told.contains("private"), "{told}");
            let file = room.read(output);
            assert!(!file.windows(7).any(|w| w == b"private"), "{args:?} {output}");
        }
    }
    let about = String::from_utf8(room.read("private/e.json")).expect("text");
    assert!(about.contains("\"model_path\": \"demo\""), "{about}");
    // With the file beside the image, or named, the image is made again.
    room.succeed(&["generate", "x", "-i", &image, "-o", "private/a.png", "-s", "1", "-S", "3"]);
    room.succeed(&["generate", "--from", "private/a.png", "-o", "b.png"]);
    assert_eq!(room.pixels("private/a.png"), room.pixels("b.png"));
}

#[test]
fn other_programs_find_the_words() {
    let room = Room::new();
    room.succeed(
        &[&["generate", "a red apple", "--seed", "7", "-o", "a.png"][..], &SMALL].concat(),
    );
    room.succeed(&["generate", "--from", "a.png", "-o", "a.jpg", "--quality", "40"]);
    let words =
        b"a red apple\nSteps: 2, Sampler: Euler, CFG scale: 1, Seed: 7, Size: 64x96, Model: demo";
    let holds = |bytes: &[u8], words: &[u8]| bytes.windows(words.len()).any(|w| w == words);
    let png = room.read("a.png");
    assert!(png.windows(11).any(|w| w == b"parameters\0") && holds(&png, words));
    let jpeg = room.read("a.jpg");
    assert_eq!(&jpeg[..3], b"\xff\xd8\xff");
    let reader = image::ImageReader::new(std::io::Cursor::new(&jpeg)).with_guessed_format();
    let mut decoder = reader.expect("bytes").into_decoder().expect("a JPEG");
    let exif = decoder.exif_metadata().expect("readable").expect("there");
    let utf16: Vec<u8> = words.iter().flat_map(|letter| [0, *letter]).collect();
    assert!(holds(&exif, &[b"UNICODE\0", &utf16[..]].concat()), "as Automatic1111 writes it");
    room.succeed(&["generate", "--from", "a.png", "-o", "fine.jpeg", "--quality", "100"]);
    assert!(room.read("fine.jpeg").len() > 2 * jpeg.len());
}

#[test]
fn files_that_tell_nothing_are_refused() {
    let room = Room::new();
    DynamicImage::new_rgb8(16, 16).save(room.path("plain.png")).expect("ours");
    fs::write(room.path("text.png"), "no picture").expect("ours");
    room.succeed(&[&["generate", "x", "-o", "x.png"][..], &SMALL].concat());
    let whole = room.read("x.png");
    fs::write(room.path("cut.png"), &whole[..100]).expect("ours");
    for (file, words) in [
        ("none.png", "cannot read none.png"),
        ("plain.png", "contains no parameters"),
        ("text.png", "not a PNG, JPEG or WebP"),
        ("cut.png", "damaged"),
    ] {
        let said = room.fail(64, &["generate", "--from", file]);
        assert!(said.contains(words), "{file}: {said}");
    }
}

#[test]
fn settings_of_another_program_are_taken_as_far_as_they_mean_something() {
    let room = Room::new();
    DynamicImage::new_rgb8(16, 16).save(room.path("plain.png")).expect("ours");
    let mut picture = Png::from_bytes(room.read("plain.png").into()).expect("a PNG");
    let words = "a red apple <lora:ink:0.5>\nNegative prompt: blurry\nSteps: 2, Sampler: Euler, \
        CFG scale: 2.5, Seed: 5, Size: 64x96, Clip skip: \x1b[31m2";
    let contents = [&b"parameters\0"[..], words.as_bytes()].concat();
    picture.chunks_mut().insert(1, PngChunk::new(*b"tEXt", contents.into()));
    fs::write(room.path("theirs.png"), picture.encoder().bytes()).expect("ours");
    let said = room.succeed(&["generate", "--from", "theirs.png", "-o", "a.png"]);
    assert!(said.contains("Automatic1111") && said.contains("LoRA: ink:0.5"), "{said}");
    assert!(said.contains("Clip skip") && !said.contains('\x1b'), "nothing reaches the terminal");
    let typed = ["a red apple", "--negative-prompt", "blurry", "--seed", "5", "-o", "b.png"];
    let scale = ["--guidance-scale", "1.5"];
    room.succeed(&[&["generate"], &typed[..], &scale, &SMALL].concat());
    assert_eq!(room.pixels("a.png"), room.pixels("b.png"));
}

#[test]
fn embeddings_and_noise_must_be_the_same_files() {
    let room = Room::new();
    room.succeed(&["encode", "a red apple", "-o", "e.safetensors"]);
    let small = |args: &[&'static str]| [args, &SMALL, &["--seed", "3"]].concat();
    room.succeed(&small(&["generate", "--load-embeddings", "e.safetensors", "-o", "a.png"]));
    let a = recipe(&room, "a.png");
    assert_eq!(a.settings.prompt.as_deref(), Some("a red apple"), "from the sidecar");
    assert!(a.sha256.contains_key("load_embeddings"));
    room.succeed(&["generate", "--from", "a.png", "-o", "b.png"]);
    assert_eq!(room.pixels("a.png"), room.pixels("b.png"));
    // A prompt that is typed takes their place.
    room.succeed(&["generate", "a red apple", "--from", "a.png", "-o", "c.png"]);
    assert_eq!(room.pixels("a.png"), room.pixels("c.png"));
    room.succeed(&["encode", "a blue car", "-o", "e.safetensors"]);
    let said = room.fail(64, &["generate", "--from", "a.png"]);
    assert!(said.contains("e.safetensors") && said.contains("--load-embeddings"), "{said}");
}
