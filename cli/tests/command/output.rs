//! Where a command writes to: links, devices, pipes, standard output, and names that nobody gave.

#![cfg(unix)]

use std::{
    fs,
    os::unix::fs::{FileTypeExt as _, PermissionsExt as _, symlink},
    process::{Command, Stdio},
};

use serde_json::Value;

use crate::support::{Room, png_size};

const SMALL: [&str; 8] = ["--width", "64", "--height", "64", "--steps", "1", "--seed", "5"];

fn small<'a>(args: &[&'a str]) -> Vec<&'a str> {
    args.iter().copied().chain(SMALL).collect()
}

/// What the program wrote to stdout and to stderr.
fn output(room: &Room, args: &[&str]) -> (Vec<u8>, String) {
    let output = room.run(args);
    let said = String::from_utf8(output.stderr).expect("text");
    assert_eq!(output.status.code(), Some(0), "{args:?}: {said}");
    (output.stdout, said)
}

fn text(bytes: Vec<u8>) -> String {
    String::from_utf8(bytes).expect("text")
}

#[test]
fn stdout_gets_the_image_and_nothing_else() {
    let room = Room::new();
    for name in ["-", "/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"] {
        if name != "-" && !std::path::Path::new(name).exists() {
            continue;
        }
        let (image, said) = output(&room, &small(&["generate", "x", "-o", name]));
        assert_eq!(png_size(&image), (64, 64), "{name}");
        assert!(said.contains("step 1/1") && said.contains("stdout: "), "{said}");
        let (_, said) = output(&room, &small(&["generate", "x", "-o", name, "-q"]));
        assert_eq!(said, "stdout: seed 5\n");
    }
    assert!(room.files().is_empty());
    let device = fs::symlink_metadata("/dev/stdout").expect("there");
    assert!(device.is_symlink() || device.file_type().is_char_device());

    // A file that the shell opened keeps what else is written to it.
    let mut command = Command::new("sh");
    let line = "(printf before; \"$0\" generate x -o /dev/stdout -q --width 64 --height 64 --steps 1; printf after) > all";
    let program = room.command(&[]).get_program().to_owned();
    let status = command.args(["-c", line]).arg(program).current_dir(room.path("")).status();
    assert!(status.expect("sh is here").success());
    let all = room.read("all");
    assert!(all.starts_with(b"before\x89PNG") && all.ends_with(b"\x82after"));
}

#[test]
fn stdout_takes_one_thing() {
    let room = Room::new();
    fs::write(room.path("p.txt"), "x\n").expect("ours");
    for (args, words) in [
        (&["generate", "x", "-o", "-", "-n", "2"][..], "takes one image, not 2"),
        (&["generate", "x", "-o", "/dev/null", "-n", "2"], "takes one image, not 2"),
        (&["generate", "--prompts", "p.txt", "-o", "-"], "remove --prompts"),
        (&["generate", "x", "-o", "-", "--output-dir", "."], "remove --output-dir"),
        (&["generate", "x", "-o", "-", "--json"], "--output and --json both write to stdout"),
        (&["generate", "x", "-o", "-", "--output-latents", "/dev/stdout"], "both write to stdout"),
        (&["encode", "x", "-o", "-", "--json"], "both write to stdout"),
        (&["generate", "x", "-o", "pictures/"], "it is a folder"),
    ] {
        let said = room.fail(64, args);
        assert!(said.contains(words), "{args:?}: {said}");
    }
}

#[test]
fn links_are_followed_and_permissions_kept() {
    let room = Room::new();
    fs::create_dir(room.path("there")).expect("ours");
    fs::write(room.path("there/image.png"), "old").expect("ours");
    fs::set_permissions(room.path("there/image.png"), fs::Permissions::from_mode(0o600))
        .expect("ours");
    symlink("there/image.png", room.path("link.png")).expect("ours");
    room.succeed(&small(&["generate", "x", "-o", "link.png"]));
    assert!(fs::symlink_metadata(room.path("link.png")).expect("there").is_symlink());
    png_size(&room.read("there/image.png"));
    let mode = fs::metadata(room.path("there/image.png")).expect("there").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);

    symlink("there/e.safetensors", room.path("e.safetensors")).expect("ours");
    symlink("there/e.json", room.path("e.json")).expect("ours");
    symlink("there/latents", room.path("latents")).expect("ours");
    let also = ["--save-embeddings", "e.safetensors", "--output-latents", "latents"];
    room.succeed(&small(&[&["generate", "x", "-o", "/dev/null"], &also[..]].concat()));
    room.succeed(&["encode", "x", "-o", "e.safetensors"]);
    for name in ["e.safetensors", "e.json", "latents"] {
        assert!(fs::symlink_metadata(room.path(name)).expect("there").is_symlink(), "{name}");
        assert!(!room.read(&format!("there/{name}")).is_empty(), "{name}");
    }
    assert_eq!(room.files(), ["e.json", "e.safetensors", "latents", "link.png", "there"]);
}

#[test]
fn a_fifo_and_devices_are_written_to() {
    let room = Room::new();
    let made = Command::new("mkfifo").arg(room.path("fifo.jpg")).status();
    assert!(made.expect("mkfifo is here").success());
    let reader = Command::new("cat").arg(room.path("fifo.jpg")).stdout(Stdio::piped()).spawn();
    let reader = reader.expect("cat is here");
    room.succeed(&small(&["generate", "x", "-o", "fifo.jpg"]));
    let read = reader.wait_with_output().expect("ended").stdout;
    assert!(read.starts_with(b"\xff\xd8\xff") && read.ends_with(b"\xff\xd9"));
    assert!(fs::metadata(room.path("fifo.jpg")).expect("there").file_type().is_fifo());
    room.succeed(&small(&["generate", "x", "-o", "/dev/null"]));
    room.succeed(&["encode", "x", "-o", "/dev/null"]);
    assert!(!std::path::Path::new("/dev/null.json").exists(), "a device has no sidecar");
    if std::path::Path::new("/dev/full").exists() {
        let said = room.fail(1, &small(&["generate", "x", "-o", "/dev/full"]));
        assert!(said.contains("cannot write /dev/full: No space left"), "{said}");
        let said = room.fail(1, &["encode", "x", "-o", "/dev/full"]);
        assert!(said.contains("cannot write /dev/full: No space left"), "{said}");
    }
    assert_eq!(room.files(), ["fifo.jpg"]);
}

#[test]
fn embeddings_go_through_a_pipe() {
    let room = Room::new();
    let (tensors, said) = output(&room, &["encode", "a red apple", "-o", "-"]);
    assert!(said.contains("stdout: embeddings ["), "{said}");
    fs::write(room.path("e.safetensors"), tensors).expect("ours");
    room.succeed(&small(&["generate", "--load-embeddings", "e.safetensors", "-o", "a.png"]));
    room.succeed(&small(&["generate", "a red apple", "-o", "b.png"]));
    assert_eq!(room.pixels("a.png"), room.pixels("b.png"));
}

#[test]
fn a_name_that_nobody_gave_is_the_next_free_one() {
    let room = Room::new();
    let (said, _) = output(&room, &small(&["generate", "x"]));
    assert_eq!(text(said), "image.png\n");
    let first = room.read("image.png");
    symlink("nowhere", room.path("image-2.png")).expect("ours");
    let (said, _) = output(&room, &small(&["generate", "y"]));
    assert_eq!(text(said), "image-3.png\n");
    let (said, _) = output(&room, &small(&["generate", "z", "-n", "2", "-q"]));
    assert_eq!(text(said), "image-4.png\nimage-5.png\n");
    assert!(room.read("image.png") == first && !room.path("nowhere").exists());
    let (said, _) = output(&room, &small(&["generate", "z", "--output-dir", "out"]));
    assert_eq!(text(said), "out/image.png\n");
    // A name that was given is that of an image to replace.
    let (said, _) = output(&room, &small(&["generate", "z", "-o", "image.png"]));
    assert_eq!(text(said), "image.png\n");
    assert!(room.read("image.png") != first);

    for name in ["embeddings", "embeddings-2"] {
        let (said, _) = output(&room, &["encode", "x"]);
        assert_eq!(text(said), format!("{name}.safetensors\n"));
        assert!(room.path(&format!("{name}.json")).exists());
    }
}

#[test]
fn names_are_given_once_to_commands_that_run_together() {
    let room = Room::new();
    let args = small(&["generate", "x", "-q"]);
    let start = |_| {
        let mut command = room.command(&args);
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("starts")
    };
    let running: Vec<_> = (0..3).map(start).collect();
    let mut names: Vec<String> = running
        .into_iter()
        .map(|child| text(child.wait_with_output().expect("ended").stdout).trim().to_owned())
        .collect();
    names.sort();
    assert_eq!(names, ["image-2.png", "image-3.png", "image.png"]);
    assert_eq!(room.files(), names);
}

#[test]
fn json_tells_of_each_image() {
    let room = Room::new();
    let long = "apple ".repeat(600);
    let args = ["generate", &long, "--json", "-n", "2", "--negative-prompt", "x", "-g", "1"];
    let (lines, said) = output(&room, &small(&args));
    assert!(said.contains("step 1/1"), "progress is on stderr: {said}");
    let lines: Vec<Value> = text(lines)
        .lines()
        .map(|line| serde_json::from_str(line).expect("an object a line"))
        .collect();
    assert_eq!(lines.len(), 2);
    for (index, (line, name)) in lines.iter().zip(["image.png", "image-2.png"]).enumerate() {
        assert_eq!(line["path"], name);
        assert_eq!((&line["width"], &line["height"]), (&64.into(), &64.into()));
        assert_eq!((&line["steps"], &line["model"]), (&1.into(), &"demo".into()));
        assert_eq!(line["seed"], 5 + index);
        assert!(line["truncated_tokens"].as_u64().expect("a number") > 50, "{line}");
        assert_eq!(line["truncated_negative_tokens"], 0);
        assert!(line["seconds"]["denoise"].is_number(), "{line}");
        assert_eq!(line["seconds"]["load"].is_number(), index == 0, "{line}");
    }
    let (line, _) = output(&room, &["encode", "x", "yy", "--json", "-o", "e.safetensors"]);
    let line: Value = serde_json::from_slice(&line).expect("an object");
    assert_eq!(line["path"], "e.safetensors");
    assert_eq!(line["tensors"][1]["name"], "embeddings_1");
    assert_eq!(line["tensors"][1]["shape"][1], 192);
}
