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

/// The files differ in what they tell of where the embeddings came from.
fn json(bytes: &[u8]) -> serde_json::Map<String, serde_json::Value> {
    serde_json::from_slice(bytes).expect("a JSON object")
}

/// The pair in `tests/goldens/embeddings` is written by Python (`tests/oracle/embedding_files.py`),
/// whose reader takes these keys and no others.
#[test]
fn embeddings_are_exchanged_with_the_python_program() {
    let room = Room::new();
    let goldens = demo_model().join("../../tests/goldens/embeddings");
    for name in ["python.safetensors", "python.json"] {
        fs::copy(goldens.join(name), room.path(name)).expect("a golden");
    }
    let theirs = ["generate", "--load-embeddings", "python.safetensors", "-o", "theirs.png"];
    let said = room.succeed(&small(&theirs));
    assert!(!said.contains("note:"), "{said}");
    let recipe = llm_dit_recipe::read(room.read("theirs.png").into()).expect("a PNG");
    let prompt = recipe.expect("parameters").settings.prompt;
    assert_eq!(prompt.as_deref(), Some("a red apple on a blue background"));

    let prompt = "a red apple on a blue background";
    room.succeed(&["encode", prompt, "-o", "ours.safetensors", "--dtype", "bf16"]);
    let save = ["generate", prompt, "--save-embeddings", "saved.safetensors", "--dtype", "bf16"];
    room.succeed(&small(&save));
    let expected = json(&room.read("python.json"));
    for name in ["ours.json", "saved.json"] {
        let ours = json(&room.read(name));
        let keys = |object: &serde_json::Map<_, _>| object.keys().cloned().collect::<Vec<String>>();
        assert_eq!(keys(&ours), keys(&expected));
        for key in ["prompt", "template", "enable_thinking", "system_prompt", "thinking_content"] {
            assert_eq!(ours[key], expected[key], "{key}");
        }
        for key in ["sequence_length", "embedding_dim", "dtype", "encoder_device"] {
            assert_eq!(ours[key], expected[key], "{key}");
        }
        // 2026-01-02T03:04:05 and perhaps a fraction; no offset.
        let created = ours["created_at"].as_str().expect("text");
        assert!(created.len() >= 19 && &created[10..11] == "T", "{created}");
        assert!(!created.contains(['Z', '+', '[']), "{created}");
    }
    room.succeed(&[
        "encode",
        "x",
        "-o",
        "x.safetensors",
        "--template",
        "noir",
        "--force-think-block",
    ]);
    let about = json(&room.read("x.json"));
    assert_eq!((&about["template"], &about["enable_thinking"]), (&"noir".into(), &true.into()));
    assert!(about["system_prompt"].is_string() && about["thinking_content"].is_string());
    let said = room.fail(64, &["encode", "x", "-o", "x.json"]);
    assert!(said.contains("x.json would be both"), "{said}");
}

#[test]
fn an_odd_sidecar_is_a_note() {
    let room = Room::new();
    room.succeed(&["encode", "a red apple", "-o", "e.safetensors"]);
    let whole = room.read("e.json");
    let generate = || room.succeed(&small(&["generate", "--load-embeddings", "e.safetensors"]));
    let with = |key: &str, value: serde_json::Value| {
        let mut object = json(&whole);
        object.insert(key.to_owned(), value);
        serde_json::to_vec(&object).expect("JSON")
    };
    for (sidecar, words) in [
        (with("colour", "red".into()), "unknown keys: colour"),
        (with("sequence_length", 7.into()), "describes 7 x 192 values"),
        (b"{\"prompt\": 1}".to_vec(), "ignored: "),
    ] {
        fs::write(room.path("e.json"), sidecar).expect("ours");
        let said = generate();
        assert!(said.contains("note: e.json") && said.contains(words), "{said}");
    }
    fs::remove_file(room.path("e.json")).expect("ours");
    let said = generate();
    assert!(said.contains("missing, so the prompt is unknown"), "{said}");
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
    assert_eq!(room.pixels("a.png"), room.pixels("b.png"));
    // Without guidance the negative embeddings are not needed.
    room.succeed(&["encode", "a red apple", "-o", "f.safetensors"]);
    room.succeed(&small(&["generate", "--load-embeddings", "f.safetensors", "-o", "c.png"]));
    room.succeed(&small(&["generate", "a red apple", "-o", "d.png"]));
    assert_eq!(room.pixels("c.png"), room.pixels("d.png"));
    let said = room.fail(64, &with(&["generate", "--load-embeddings", "f.safetensors"]));
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
        room.pixels(output)
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
