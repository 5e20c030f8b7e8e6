//! `llm-dit config`, and configuration files as the other commands read them.

use std::{fs, path::Path};

use crate::support::Room;

fn example() -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../config.example.toml");
    fs::read_to_string(path).expect("it ships with the repository")
}

/// The line of `config show` that sets this key.
fn line<'a>(shown: &'a str, key: &str) -> &'a str {
    let begins = |line: &&str| line.trim_start_matches("# ").starts_with(&format!("{key} "));
    shown.lines().find(begins).unwrap_or_else(|| panic!("no {key} in {shown}"))
}

fn show(room: &Room, args: &[&str]) -> String {
    let output = room.run(&[&["config", "show"], args].concat());
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("text")
}

#[test]
fn the_example_is_valid_as_it_is_and_with_every_line_in_use() {
    let room = Room::new();
    fs::write(room.path("example.toml"), example()).expect("written");
    let shown = show(&room, &["--config", "example.toml"]);
    assert!(shown.starts_with("# profile 'default' of example.toml"), "{shown}");
    assert!(line(&shown, "max_length").ends_with("# file"));

    // Comments that hold a key become that key.
    let key = |line: &str| {
        let rest = line.strip_prefix("# ").unwrap_or_default();
        let name = rest.split(' ').next().unwrap_or_default();
        let is_key = !name.is_empty() && name.chars().all(|c| c.is_ascii_lowercase() || c == '_');
        is_key && rest[name.len()..].starts_with(" = ") || rest.starts_with("    {") || rest == "]"
    };
    let all: Vec<String> = example()
        .lines()
        .map(|line| if key(line) { line["# ".len()..].to_owned() } else { line.to_owned() })
        .collect();
    fs::write(room.path("all.toml"), all.join("\n")).expect("written");
    let shown = show(&room, &["--config", "all.toml"]);
    assert!(line(&shown, "steps").starts_with("steps = 8"), "{shown}");
    assert!(line(&shown, "negative_prompt").contains("\"blurry\""), "{shown}");
    assert!(line(&shown, "steps").ends_with("# file"), "{shown}");
}

#[test]
fn it_is_said_where_each_value_came_from() {
    let room = Room::new();
    let file =
        "[default.generation]\nsteps = 4\nguidance_scale = 1.5\nwidth = 128\n[server]\nport = 81\n";
    fs::write(room.path("c.toml"), file).expect("written");
    let args = ["config", "show", "--config", "c.toml", "--steps", "3"];
    let output = room.command(&args).env("LLM_DIT_GUIDANCE_SCALE", "2").output().expect("starts");
    let shown = String::from_utf8(output.stdout).expect("text");
    for (key, value, origin) in [
        ("steps", "3", "--steps"),
        ("guidance_scale", "2", "$LLM_DIT_GUIDANCE_SCALE"),
        ("width", "128", "file"),
        ("height", "256", "model demo"),
        ("port", "81", "file"),
        ("seed", "", "not set"),
    ] {
        let line = line(&shown, key);
        assert!(line.contains(value) && line.ends_with(&format!("# {origin}")), "{line}");
    }
    // What is printed can be read again.
    fs::write(room.path("again.toml"), &shown).expect("written");
    let again = show(&room, &["--config", "again.toml"]);
    assert!(line(&again, "steps").starts_with("steps = 3"), "{again}");

    let json = show(&room, &["--json", "--config", "c.toml"]);
    let json: serde_json::Value = serde_json::from_str(&json).expect("JSON");
    assert_eq!(json["generation.steps"]["value"], 4);
    assert_eq!(json["generation.guidance_scale"]["value"], 1.5);
    assert_eq!(json["optimization.max_vram"]["value"], "auto");
    assert_eq!(json["server.host"]["value"], "127.0.0.1");
    assert_eq!(json["generation.steps"]["origin"], "file");
}

#[test]
fn a_picture_follows_the_file_and_flags_go_before_it() {
    let room = Room::new();
    let file = "[default.generation]\nsteps = 1\nwidth = 64\nheight = 80\nseed = 5\n\
                [other.generation]\nsteps = 1\nwidth = 96\nheight = 64\n";
    fs::write(room.path("c.toml"), file).expect("written");
    let size = |args: &[&str]| {
        room.succeed(
            &[&["generate", "a red apple", "-o", "image.png", "--config", "c.toml"], args].concat(),
        );
        crate::support::png_size(&room.read("image.png"))
    };
    assert_eq!(size(&[]), (64, 80));
    assert_eq!(size(&["--height", "64"]), (64, 64));
    assert_eq!(size(&["--profile", "other"]), (96, 64));
}

#[test]
fn wrong_files_are_refused_before_any_work() {
    let room = Room::new();
    fs::write(room.path("c.toml"), "[default.generation]\nstep = 4\n").expect("written");
    let said = room.fail(64, &["generate", "x", "--config", "c.toml"]);
    assert!(said.contains("c.toml:2: unknown key 'generation.step'; did you mean"), "{said}");
    fs::write(room.path("c.toml"), "[default.generation]\nsteps = 4\n").expect("written");
    let said = room.fail(64, &["generate", "x", "--config", "c.toml", "--profile", "defualt"]);
    assert!(said.contains("has no profile 'defualt'; did you mean 'default'?"), "{said}");
    for (file, words) in [
        ("steps = 4\n", "move it to [default.generation]"),
        ("stepz = 4\n", "move it to [default]"),
        (
            "[generation]\nsteps = 4\n",
            "c.toml:1: [generation] is a table of a profile; write [default.generation]",
        ),
    ] {
        fs::write(room.path("c.toml"), file).expect("written");
        let said = room.fail(64, &["generate", "x", "--config", "c.toml"]);
        assert!(said.contains(words), "{said}");
    }
    let said = room.fail(64, &["generate", "x", "--config", "none.toml"]);
    assert!(said.contains("none.toml"), "{said}");
}

/// A key that no command has a flag for would be taken and forgotten.
#[test]
fn every_key_of_the_format_is_shown() {
    let shown = show(&Room::new(), &[]);
    for key in llm_dit_settings::KEYS {
        if matches!(key.used, llm_dit_settings::Use::Flag(_)) {
            let name = key.path.rsplit('.').next().expect("a name");
            line(&shown, name);
        }
    }
}

#[test]
fn the_name_of_images_is_not_that_of_other_files() {
    let room = Room::new();
    let file = "[default.generation]\noutput = \"named.png\"\nsteps = 1\nwidth = 64\nheight = 64\n";
    fs::write(room.path("c.toml"), file).expect("written");
    for args in [&["generate", "x"][..], &["encode", "x"], &["certificates", "a=b"]] {
        room.succeed(&[args, &["--config", "c.toml"]].concat());
    }
    let expected =
        ["c.toml", "certificates", "embeddings.json", "embeddings.safetensors", "named.png"];
    assert_eq!(room.files(), expected);
}
