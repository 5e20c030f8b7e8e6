//! Embeddings and latents in files.

use std::fs;

use llm_dit_proto::{DType, Tensor};
use safetensors::{Dtype, SafeTensors, tensor::TensorView};

use crate::support::{Room, demo_model};

const SMALL: [&str; 8] = ["--width", "64", "--height", "64", "--steps", "2", "--seed", "5"];

fn small<'a>(args: &[&'a str]) -> Vec<&'a str> {
    args.iter().copied().chain(SMALL).collect()
}

/// Writes a file of f32 tensors, or of what else `dtype` says the bytes are.
fn write(room: &Room, name: &str, tensors: &[(&str, Dtype, Vec<usize>, Vec<u8>)]) {
    let views: Vec<_> = tensors
        .iter()
        .map(|(name, dtype, shape, bytes)| {
            (*name, TensorView::new(*dtype, shape.clone(), bytes).expect("as the shape says"))
        })
        .collect();
    let file = safetensors::serialize(views, None).expect("small");
    fs::write(room.path(name), file).expect("our own folder");
}

fn zeros(shape: &[usize]) -> Vec<u8> {
    vec![0; shape.iter().product::<usize>() * 4]
}

#[test]
fn saved_embeddings_make_the_same_picture() {
    let room = Room::new();
    let cfg = ["--guidance-scale", "1.5"];
    let with = |args: &[&'static str]| small(&[args, &cfg].concat());
    room.succeed(&with(&[
        "generate",
        "a red apple",
        "--negative-prompt",
        "blurry",
        "-o",
        "a.png",
        "--save-embeddings",
        "e.safetensors",
    ]));
    room.succeed(&with(&["generate", "--load-embeddings", "e.safetensors", "-o", "b.png"]));
    assert_eq!(room.read("a.png"), room.read("b.png"));
    // Without guidance the negative embeddings are not needed.
    room.succeed(&["encode", "a red apple", "-o", "f.safetensors"]);
    room.succeed(&small(&["generate", "--load-embeddings", "f.safetensors", "-o", "c.png"]));
    room.succeed(&small(&["generate", "a red apple", "-o", "d.png"]));
    assert_eq!(room.read("c.png"), room.read("d.png"));
    let said = room.fail(1, &with(&["generate", "--load-embeddings", "f.safetensors"]));
    assert!(said.contains("negative_embeddings"), "{said}");
}

#[test]
fn several_prompts_are_numbered_tensors_of_one_file() {
    let room = Room::new();
    room.succeed(&["encode", "one", "two", "three", "-o", "e.safetensors"]);
    let file = room.read("e.safetensors");
    let tensors = SafeTensors::deserialize(&file).expect("valid");
    let mut names = tensors.names();
    names.sort_unstable();
    assert_eq!(names, ["embeddings", "embeddings_1", "embeddings_2"]);
    for name in names {
        assert_eq!(tensors.tensor(name).expect("named").shape()[1], 192);
    }
}

#[test]
fn latents_are_read_and_written() {
    let room = Room::new();
    let shape = [16, 8, 8];
    let noise: Vec<f32> = (0..1024).map(|i| ((i * 37 % 101) as f32 - 50.0) / 25.0).collect();
    let tensor = Tensor::from_f32(&noise, shape.to_vec(), DType::F32).expect("whole");
    let bytes = |tensor: &Tensor| tensor.bytes().to_vec();
    write(&room, "a", &[("latents", Dtype::F32, shape.to_vec(), bytes(&tensor))]);
    write(&room, "b", &[("latents", Dtype::F32, vec![1, 16, 8, 8], bytes(&tensor))]);
    let make = |latents: &str, output: &str, seed: &str| {
        let args = ["generate", "x", "--width", "64", "--height", "64", "--steps", "2", "--seed"];
        let files = [seed, "--latents", latents, "-o", output, "--output-latents", "out"];
        room.succeed(&[&args[..], &files].concat());
        room.read(output)
    };
    let first = make("a", "a.png", "1");
    assert_eq!(make("b", "b.png", "2"), first, "the seed names noise that is not used");
    let out = room.read("out");
    let out = SafeTensors::deserialize(&out).expect("valid");
    assert_eq!(out.tensor("latents").expect("named").shape(), shape);

    write(&room, "c", &[("latents", Dtype::F32, vec![16, 8, 16], zeros(&[16, 8, 16]))]);
    let said = room.fail(64, &small(&["generate", "x", "--latents", "c"]));
    assert!(said.contains("[16, 8, 16]") && said.contains("[16, 8, 8]"), "{said}");
}

#[test]
fn bad_embedding_files_are_told_apart() {
    let room = Room::new();
    let good = vec![3, 192];
    write(&room, "wide", &[("embeddings", Dtype::F32, vec![3, 2560], zeros(&[3, 2560]))]);
    write(&room, "other", &[("hidden", Dtype::F32, good.clone(), zeros(&good))]);
    write(&room, "ints", &[("embeddings", Dtype::I32, good.clone(), zeros(&good))]);
    write(&room, "flat", &[("embeddings", Dtype::F32, vec![192], zeros(&[192]))]);
    let mut nan = zeros(&good);
    nan[4..8].copy_from_slice(&f32::NAN.to_le_bytes());
    write(&room, "nan", &[("embeddings", Dtype::F32, good.clone(), nan)]);
    write(&room, "whole", &[("embeddings", Dtype::F32, good.clone(), zeros(&good))]);
    let whole = room.read("whole");
    fs::write(room.path("cut"), &whole[..whole.len() - 9]).expect("our own folder");
    fs::write(room.path("junk"), b"not safetensors at all").expect("our own folder");
    for (file, words) in [
        ("missing", "cannot read missing"),
        ("junk", "not a valid safetensors file"),
        ("cut", "not a valid safetensors file"),
        ("other", "no tensor 'embeddings'; it has: hidden"),
        ("ints", "I32"),
        ("flat", "192"),
        ("wide", "width 2560"),
        ("nan", "NaN"),
    ] {
        let before = room.files();
        let output = room.run(&small(&["generate", "--load-embeddings", file]));
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(matches!(output.status.code(), Some(1 | 64)), "{file}: {said}");
        assert!(said.contains(words) && !said.contains("panicked"), "{file}: {said}");
        assert_eq!(room.files(), before);
    }
    room.succeed(&small(&["generate", "--load-embeddings", "whole"]));
}

#[test]
fn a_damaged_model_is_named_by_file() {
    let room = Room::new();
    let model = room.path("model");
    copy(&demo_model(), &model);
    let weights = model.join("transformer/diffusion_pytorch_model.safetensors");
    let bytes = fs::read(&weights).expect("copied");
    fs::write(&weights, &bytes[..bytes.len() / 2]).expect("ours");
    let said = room.fail(1, &small(&["generate", "x", "--model-path", "model"]));
    assert!(said.contains("diffusion_pytorch_model.safetensors"), "{said}");
    fs::remove_file(&weights).expect("ours");
    let said = room.fail(1, &small(&["generate", "x", "--model-path", "model"]));
    assert!(said.contains("transformer"), "{said}");
}

fn copy(from: &std::path::Path, to: &std::path::Path) {
    fs::create_dir(to).expect("our own folder");
    for entry in fs::read_dir(from).expect("the demo model") {
        let entry = entry.expect("readable");
        let to = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &to);
        } else {
            fs::copy(entry.path(), to).expect("room for the demo model");
        }
    }
}
