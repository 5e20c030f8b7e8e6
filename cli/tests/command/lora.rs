//! LoRAs of the command line.

use std::fs;

use safetensors::{Dtype, tensor::TensorView};

use crate::support::Room;

const SMALL: [&str; 6] = ["--width", "64", "--height", "64", "--steps", "2"];
/// Width of the demo model.
const DIM: usize = 192;

/// A LoRA of rank 1 for these modules of the demo model, all values 0.05.
fn write(room: &Room, name: &str, modules: &[&str]) {
    let values: Vec<u8> = [0.05f32; DIM].iter().flat_map(|v| v.to_le_bytes()).collect();
    let view = |shape: Vec<usize>| TensorView::new(Dtype::F32, shape, &values).expect("fits");
    let tensors = modules.iter().flat_map(|module| {
        [
            (format!("{module}.lora_A.weight"), view(vec![1, DIM])),
            (format!("{module}.lora_B.weight"), view(vec![DIM, 1])),
        ]
    });
    let bytes = safetensors::serialize(tensors, None).expect("serializes");
    fs::write(room.path(name), bytes).expect("writes");
}

fn generate(room: &Room, args: &[&str]) -> (String, Vec<u8>) {
    let args: Vec<&str> = ["generate", "a fox", "--seed", "1", "-o", "image.png"]
        .iter()
        .chain(&SMALL)
        .chain(args)
        .copied()
        .collect();
    (room.succeed(&args), room.pixels("image.png"))
}

#[test]
fn a_lora_changes_the_picture_and_says_what_it_changes() {
    let room = Room::new();
    let modules = ["transformer.layers.0.attention.to_q", "transformer.layers.7.attention.to_v"];
    write(&room, "style.safetensors", &modules);
    let (_, plain) = generate(&room, &[]);
    let (said, changed) = generate(&room, &["--lora", "style.safetensors"]);
    assert!(said.contains("style.safetensors: rank 1, scale 1, matrices changed: 2"), "{said}");
    assert_ne!(changed, plain);
    assert_eq!(generate(&room, &["--lora", "style.safetensors:1.0"]).1, changed);
    assert_eq!(generate(&room, &["--lora", "style.safetensors:0"]).1, plain);
    let halves = ["--lora", "style.safetensors:0.5", "--lora", "style.safetensors:-0.5"];
    let (said, _) = generate(&room, &halves);
    assert!(said.contains("scale 0.5") && said.contains("scale -0.5"), "{said}");
}

#[test]
fn a_lora_may_be_in_the_pass_of_the_prompt_only() {
    let room = Room::new();
    let modules = ["transformer.layers.0.attention.to_q", "transformer.layers.7.attention.to_v"];
    write(&room, "style.safetensors", &modules);
    let both = ["--lora", "style.safetensors:3@layers.0=0.5"];
    let positive = ["--lora", "style.safetensors:3@layers.0=0.5,pass=positive"];
    let guided = ["--guidance-scale", "2"];
    let (said, plain) = generate(&room, &positive);
    assert!(said.contains("matrices changed: 2, positive pass only"), "{said}");
    assert!(said.contains("without guidance"), "{said}");
    assert_eq!(plain, generate(&room, &both).1);
    let (_, in_both) = generate(&room, &[&both[..], &guided].concat());
    let (said, in_one) = generate(&room, &[&positive[..], &guided].concat());
    assert!(!said.contains("without guidance"), "{said}");
    assert_ne!(in_one, in_both);
    assert_ne!(in_one, generate(&room, &guided).1);

    // The file says how it was made.
    generate(&room, &[&positive[..], &guided].concat());
    let recipe = llm_dit_recipe::read(room.read("image.png").into()).expect("ours");
    let recipe = recipe.expect("a recipe");
    assert_eq!(recipe.loras[0].pass.as_deref(), Some("positive"));
    room.succeed(&["generate", "--from", "image.png", "-o", "again.png"]);
    assert_eq!(room.pixels("again.png"), in_one);
    let other = ["generate", "--from", "image.png", "--guidance-scale", "0", "-o", "plain.png"];
    room.succeed(&other);
    assert_eq!(room.pixels("plain.png"), plain);

    let said = room.fail(64, &["generate", "x", "--lora", "style.safetensors@pass=negative"]);
    assert!(said.contains("'negative'") && said.contains("both or positive"), "{said}");
    let odd = llm_dit_recipe::Lora { pass: Some("upside".into()), ..recipe.loras[0].clone() };
    let odd = llm_dit_recipe::Recipe { loras: vec![odd], ..recipe };
    let file = llm_dit_recipe::write(room.read("image.png").into(), &odd).expect("ours");
    fs::write(room.path("odd.png"), file).expect("writes");
    let said = room.fail(64, &["generate", "--from", "odd.png"]);
    assert!(said.contains("'upside'"), "{said}");
}

/// White lines on blue: the model alone paints a fox in orange on white.
#[test]
fn the_lora_that_ships_draws_blueprints() {
    let room = Room::new();
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../models/loras");
    let draw = |extra: &[&str]| {
        let size = ["--width", "192", "--height", "192", "--steps", "4", "--seed", "1"];
        let args: Vec<&str> = ["generate", "a fox", "-o", "image.png"]
            .iter()
            .chain(&size)
            .chain(extra)
            .copied()
            .collect();
        let said = room.succeed(&args);
        let pixels = room.pixels("image.png");
        let mean = [0, 1, 2].map(|channel| {
            let values = pixels.iter().skip(channel).step_by(3);
            values.map(|&value| u64::from(value)).sum::<u64>() * 3 / pixels.len() as u64
        });
        (said, mean)
    };
    let (_, [red, _, blue]) = draw(&[]);
    assert!(red > 200 && red > blue, "without it: red {red}, blue {blue}");
    let (said, [red, _, blue]) = draw(&["--loras-dir", folder, "--lora", "blueprint.safetensors"]);
    assert!(
        said.contains("blueprint.safetensors: rank 8, scale 1, matrices changed: 84"),
        "{said}"
    );
    assert!(blue > 120 && red < 100, "with it: red {red}, blue {blue}");
}

#[test]
fn relative_paths_are_looked_for_in_the_folder_of_loras() {
    let room = Room::new();
    fs::create_dir(room.path("loras")).expect("creates");
    write(&room, "loras/style.safetensors", &["diffusion_model.layers.0.attention.out"]);
    let (said, _) = generate(&room, &["--loras-dir", "loras", "--lora", "style.safetensors:0.8"]);
    assert!(said.contains("style.safetensors: rank 1, scale 0.8, matrices changed: 1"), "{said}");
    let missing = room.fail(64, &["generate", "x", "--loras-dir", "loras", "--lora", "none:2"]);
    assert!(missing.contains("none") && missing.contains("loras"), "{missing}");
}

#[test]
fn trigger_words_go_before_the_prompt() {
    let room = Room::new();
    write(&room, "style.safetensors", &["layers.0.attention.to_q"]);
    let lora = ["--lora", "style.safetensors:0"];
    let (_, plain) = generate(&room, &lora);
    let (_, with_words) = generate(&room, &[&lora[..], &["--lora-trigger", "ink"]].concat());
    assert_ne!(with_words, plain);
    let args =
        ["generate", "ink a fox", "--seed", "1", "-o", "image.png"].iter().chain(&SMALL).copied();
    room.succeed(&args.collect::<Vec<_>>());
    assert_eq!(room.pixels("image.png"), with_words);
    let said = room.fail(64, &["generate", "x", "--lora-trigger", "ink"]);
    assert!(said.contains("--lora-trigger"), "{said}");
}

#[test]
fn keys_that_fit_nothing_are_named() {
    let room = Room::new();
    let modules = ["layers.0.attention.to_q", "layers.8.attention.to_q"];
    write(&room, "style.safetensors", &modules);
    let (said, _) = generate(&room, &["--lora", "style.safetensors"]);
    assert!(
        said.contains("ignored, because they match no module of the transformer, 1: "),
        "{said}"
    );
    assert!(said.contains("layers.8.attention.to_q.lora_A.weight"), "{said}");

    write(&room, "other.safetensors", &["single_blocks.0.linear1"]);
    let said = room.fail(1, &["generate", "x", "--lora", "other.safetensors"]);
    for words in ["other.safetensors", "single_blocks.0.linear1", "layers.0."] {
        assert!(said.contains(words), "{words}: {said}");
    }
    fs::write(room.path("style.bin"), b"a pickle").expect("writes");
    let said = room.fail(1, &["generate", "x", "--lora", "style.bin:0.5"]);
    assert!(said.contains("safetensors"), "{said}");
}

#[test]
fn a_gateway_finds_the_files_of_loras() {
    let room = Room::new();
    let said = room.fail(1, &["generate", "x", "--lora", "x", "--gateway", "http://127.0.0.1:9"]);
    assert!(said.contains("no response") && !said.contains("--lora"), "{said}");
}
