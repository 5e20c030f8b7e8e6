//! What a command reads beside its flags: standard input, text files of other systems, and pictures
//! that are not whole.

use std::{
    fs,
    io::Write as _,
    process::{Output, Stdio},
};

use crate::support::Room;

const SMALL: [&str; 8] = ["--width", "64", "--height", "64", "--steps", "1", "--seed", "5"];

fn small<'a>(args: &[&'a str]) -> Vec<&'a str> {
    args.iter().copied().chain(SMALL).collect()
}

/// Runs the program with this on its standard input.
fn piped(room: &Room, args: &[&str], input: &[u8]) -> Output {
    let mut command = room.command(args);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("starts");
    // A command that needs no input may have ended.
    let _ = child.stdin.take().expect("piped").write_all(input);
    child.wait_with_output().expect("ended")
}

fn succeed(room: &Room, args: &[&str], input: &[u8]) -> String {
    let output = piped(room, args, input);
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{args:?}: {said}");
    String::from_utf8(output.stdout).expect("text")
}

#[test]
fn a_prompt_comes_from_stdin() {
    let room = Room::new();
    room.succeed(&small(&["generate", "a red apple", "-o", "a.png"]));
    for (args, input) in [
        (&["generate", "-", "-o", "b.png"][..], &b"a red apple\n"[..]),
        (&["generate", "-o", "b.png"], b"a red apple"),
        (&["generate", "-o", "b.png"], b"\xef\xbb\xbfa red apple\r\n"),
        (&["generate", "--prompts", "-", "-o", "b.png"], b"\xef\xbb\xbf# mine\na red apple\n"),
    ] {
        succeed(&room, &small(args), input);
        assert_eq!(room.pixels("b.png"), room.pixels("a.png"), "{args:?}");
        fs::remove_file(room.path("b.png")).expect("ours");
    }
    let formatted = succeed(&room, &["format"], b"two\nlines\n");
    assert!(formatted.contains("user\ntwo\nlines<|im_end|>"), "{formatted}");
    assert_eq!(succeed(&room, &["format", "-"], b"two\nlines\n"), formatted);
    succeed(&room, &["encode", "-o", "e.safetensors"], b"a red apple\n");
    succeed(&room, &["encode", "-", "-o", "f.safetensors"], b"a red apple\n");
    assert_eq!(room.read("e.safetensors"), room.read("f.safetensors"));
    // A prompt argument takes precedence over a pipe.
    let given = succeed(&room, &["format", "given"], b"piped");
    assert!(given.contains("given") && !given.contains("piped"), "{given}");
    for (input, words) in [
        (&b"\xff\xfeh\0"[..], "stdin: it is UTF-16 or UTF-32 text; save it as UTF-8"),
        (b"a\n\xe9\n", "stdin: line 2 is not UTF-8 text"),
        (b"", "say what to draw"),
    ] {
        let output = piped(&room, &["generate"], input);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.code() == Some(64) && said.contains(words), "{said}");
    }
}

#[test]
fn a_byte_order_mark_is_not_read_as_text() {
    let room = Room::new();
    let with_mark = |text: &str| [b"\xef\xbb\xbf", text.as_bytes()].concat();
    room.succeed(&small(&["generate", "a red apple", "-o", "plain.png"]));
    for (name, text) in [
        ("comment.txt", "# my prompts\na red apple\n"),
        ("json.txt", "{\"prompt\": \"a red apple\", \"width\": 64}\n"),
        ("plain.txt", "a red apple\r\n"),
    ] {
        fs::write(room.path(name), with_mark(text)).expect("ours");
        let folder = format!("{name}.out");
        let prompts = ["generate", "--prompts", name, "--output-dir", &folder];
        room.succeed(&small(&prompts));
        let image = format!("{folder}/0001-a-red-apple.png");
        assert_eq!(room.pixels(&image), room.pixels("plain.png"), "{name}");
    }
    fs::write(room.path("wide.txt"), b"\xff\xfea\0").expect("ours");
    let said = room.fail(64, &["generate", "--prompts", "wide.txt"]);
    assert!(said.contains("wide.txt: it is UTF-16 or UTF-32 text; save it as UTF-8"), "{said}");

    fs::create_dir(room.path("mine")).expect("ours");
    let template = with_mark("---\ncategory: metal\n---\nBrass.");
    fs::write(room.path("mine/brass.md"), template).expect("ours");
    let brass = ["templates", "show", "brass", "--templates-dir", "mine"];
    let shown = succeed(&room, &brass, b"");
    assert!(shown.contains("category         metal") && shown.contains("Brass."), "{shown}");
    fs::write(room.path("c.toml"), with_mark("[default.generation]\nsteps = 3\n")).expect("ours");
    let shown = succeed(&room, &["config", "show", "--config", "c.toml"], b"");
    assert!(shown.contains("steps = 3"), "{shown}");
    fs::write(room.path("c.toml"), b"\xff\xfe[\0").expect("ours");
    let said = room.fail(64, &["config", "show", "--config", "c.toml"]);
    assert!(said.contains("c.toml: it is UTF-16 or UTF-32 text"), "{said}");

    room.succeed(&["encode", "a red apple", "-o", "e.safetensors"]);
    let sidecar = String::from_utf8(room.read("e.json")).expect("text");
    fs::write(room.path("e.json"), with_mark(&sidecar)).expect("ours");
    let load = ["generate", "--load-embeddings", "e.safetensors", "-o", "e.png"];
    let said = room.succeed(&small(&load));
    assert!(!said.contains("note:"), "{said}");
}

#[test]
fn an_init_image_that_is_cut_off_is_refused() {
    let room = Room::new();
    let picture = image::RgbImage::from_fn(96, 96, |x, y| image::Rgb([x as u8, y as u8, 90]));
    for name in ["s.png", "s.jpg", "s.webp"] {
        picture.save(room.path(name)).expect("ours");
        let whole = room.read(name);
        let init = ["generate", "x", "-i", name, "-o", "out.png"];
        room.succeed(&small(&init));
        fs::remove_file(room.path("out.png")).expect("ours");
        for part in [whole.len() - 1, whole.len() * 3 / 4, whole.len() / 2] {
            fs::write(room.path(name), &whole[..part]).expect("ours");
            let said = room.fail(64, &small(&init));
            assert!(said.contains(&format!("{name}: the image cannot be decoded")), "{said}");
        }
    }
}

#[test]
fn one_parameter_under_two_names_is_explained() {
    let room = Room::new();
    let said = room.fail(64, &["generate", "x", "--steps", "2", "--num-inference-steps", "3"]);
    assert!(said.contains("--steps and --num-inference-steps are the same parameter"), "{said}");
    let line = "{\"prompt\": \"x\", \"steps\": 2, \"num_inference_steps\": 3}\n";
    fs::write(room.path("p.txt"), line).expect("ours");
    let said = room.fail(64, &["generate", "--prompts", "p.txt"]);
    assert!(said.contains("steps and num_inference_steps are the same parameter"), "{said}");
    for (number, decimal) in [("0x10", "16"), ("0o17", "15"), ("0b11", "3")] {
        let text = format!("[default.generation]\nseed = {number}\n");
        fs::write(room.path("c.toml"), text).expect("ours");
        let said = room.fail(64, &["generate", "x", "--config", "c.toml"]);
        let words = format!("generation.seed = {number}: write the number as {decimal}");
        assert!(said.contains("c.toml:2") && said.contains(&words), "{said}");
    }
}
