//! Models from ComfyUI's folders, models without a folder, and `doctor`.

use std::fs;

use serde_json::Value;

use crate::support::{Room, demo_model};

const TINY: [&str; 9] = ["-W", "64", "-H", "64", "-s", "1", "-S", "1", "-q"];

/// A ComfyUI folder with the demo model's files.
fn comfyui(room: &Room) -> String {
    for (from, to) in [
        ("transformer/diffusion_pytorch_model.safetensors", "unet/z.safetensors"),
        ("text_encoder/model.safetensors", "clip/deep/q.safetensors"),
        ("vae/diffusion_pytorch_model.safetensors", "vae/ae.safetensors"),
    ] {
        let path = room.path("comfy/models").join(to);
        fs::create_dir_all(path.parent().expect("a folder")).expect("made");
        fs::copy(demo_model().join(from), path).expect("copied");
    }
    let loras = room.path("comfy/models/loras");
    fs::create_dir_all(&loras).expect("made");
    let lora = demo_model().join("../loras/blueprint.safetensors");
    fs::copy(lora, loras.join("blueprint.safetensors")).expect("copied");
    room.path("comfy").to_str().expect("text").to_owned()
}

#[test]
fn the_files_of_comfyui_make_the_same_image() {
    let room = Room::new();
    let folder = comfyui(&room);
    let demo = demo_model();
    let demo = demo.to_str().expect("text");
    let model = ["--comfyui", &folder, "-m", demo];
    // Loud, to hear what was chosen.
    let said =
        room.succeed(&[&["generate", "a fox", "-o", "a.png"], &model[..], &TINY[..8]].concat());
    assert!(said.contains("transformer ") && said.contains("unet/z.safetensors"), "{said}");
    assert!(said.contains("clip/deep/q.safetensors") && said.contains("VAE "), "{said}");
    room.succeed(&[&["generate", "a fox", "-o", "b.png"], &TINY[..]].concat());
    assert_eq!(room.pixels("a.png"), room.pixels("b.png"));
    room.succeed(&[&["encode", "a fox", "-q"], &model[..]].concat());
    let with_lora = ["generate", "a fox", "-o", "l.png", "--lora", "blueprint.safetensors"];
    room.succeed(&[&with_lora[..], &model[..], &TINY[..]].concat());
    assert_ne!(room.pixels("l.png"), room.pixels("b.png"));

    // A second transformer is a choice, which a name makes.
    let second = room.path("comfy/models/diffusion_models");
    fs::create_dir_all(&second).expect("made");
    fs::copy(room.path("comfy/models/unet/z.safetensors"), second.join("y.safetensors"))
        .expect("copied");
    let generate = [&["generate", "a fox", "-o", "c.png"], &model[..], &TINY[..]].concat();
    let said = room.fail(64, &generate);
    assert!(said.contains("--dit-path y.safetensors\n  --dit-path z.safetensors"), "{said}");
    room.succeed(&[&generate[..], &["--dit-path", "y.safetensors"]].concat());
    assert_eq!(room.pixels("c.png"), room.pixels("b.png"));
    let said = room.fail(64, &["generate", "x", "--comfyui", demo]);
    assert!(said.contains("no folder of ComfyUI") || said.contains("has no"), "{said}");
}

#[test]
fn a_text_encoder_alone_gets_the_built_in_tokenizer_if_it_fits() {
    let room = Room::new();
    comfyui(&room);
    let encoder = room.path("comfy/models/clip/deep/q.safetensors");
    let encoder = encoder.to_str().expect("text");
    let said = room.run(&["encode", "a fox", "--text-encoder-path", encoder]);
    let said = String::from_utf8(said.stderr).expect("text");
    assert!(said.contains("the built-in tokenizer of Qwen3 has 151669"), "{said}");
    assert!(said.contains("--model-path"), "{said}");
    let said = room.fail(64, &["generate", "x", "--text-encoder-path", encoder]);
    assert!(said.contains("--dit-path and --vae-path, or --model-path"), "{said}");
    // A tokenizer beside it wins.
    let beside = room.path("comfy/models/clip/deep/tokenizer");
    fs::create_dir_all(&beside).expect("made");
    for entry in fs::read_dir(demo_model().join("tokenizer")).expect("there") {
        let entry = entry.expect("readable");
        fs::copy(entry.path(), beside.join(entry.file_name())).expect("copied");
    }
    let folder = demo_model().join("text_encoder");
    room.succeed(&[
        "encode",
        "a fox",
        "-q",
        "-o",
        "a.safetensors",
        "--text-encoder-path",
        folder.to_str().expect("text"),
    ]);
    room.succeed(&["encode", "a fox", "-q", "-o", "b.safetensors"]);
    assert_eq!(room.read("a.safetensors"), room.read("b.safetensors"));
}

#[test]
fn the_doctor_says_what_there_is_and_what_is_missing() {
    let room = Room::new();
    let report = |args: &[&str]| {
        let output = room.run(&[&["doctor", "--json"], args].concat());
        let report: Value = serde_json::from_slice(&output.stdout).expect("JSON");
        (output.status.code(), report)
    };
    let (status, whole) = report(&["--device", "cpu"]);
    assert_eq!((status, &whole["problems"]), (Some(0), &serde_json::json!([])));
    assert_eq!(whole["devices"][0]["name"], "cpu");
    assert_eq!(whole["devices"][0]["selected"], true);
    assert_eq!(whole["model"]["name"], "demo");
    assert!(whole["model"]["parts"].as_array().is_some_and(|parts| {
        parts.len() == 3 && parts.iter().all(|part| part["bytes"].as_u64() > Some(1000))
    }));
    let (status, lacking) = report(&["--model-path", "nobody/model"]);
    assert_eq!(status, Some(1));
    assert!(lacking["problems"][0].as_str().is_some_and(|said| said.contains("llm-dit pull")));
    fs::create_dir_all(room.path("half/transformer")).expect("made");
    let (status, lacking) = report(&["--model-path", "half"]);
    assert_eq!((status, lacking["problems"].as_array().map(Vec::len)), (Some(1), Some(2)));
    let output = room.run(&["doctor", "--device", "cpu"]);
    let text = String::from_utf8(output.stdout).expect("text");
    assert!(text.contains("backends: cpu") && text.contains("transformer"), "{text}");
    #[cfg(not(feature = "cuda"))]
    {
        let (status, lacking) = report(&["--device", "cuda"]);
        assert_eq!(status, Some(1), "{lacking}");
    }
}
