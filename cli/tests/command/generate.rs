//! Pictures in one process.

use std::{
    io::{BufRead as _, BufReader},
    process::{Command, Stdio},
};

use crate::support::{Room, png_size};

const SMALL: [&str; 6] = ["--width", "64", "--height", "96", "--steps", "2"];

fn small<'a>(args: &[&'a str]) -> Vec<&'a str> {
    args.iter().copied().chain(SMALL).collect()
}

#[test]
fn the_first_command_makes_a_picture_and_says_how_it_went() {
    let room = Room::new();
    let said = room.succeed(&["generate", "a red apple"]);
    assert_eq!(room.files(), ["image.png"]);
    assert_eq!(png_size(&room.read("image.png")), (256, 256));
    for words in ["step 1/8", "step 8/8", "\ndecoding\n", "image.png", "256x256", "seed "] {
        assert!(said.contains(words), "{words}: {said}");
    }
    assert!(!said.contains('\u{1b}'), "no colours outside a terminal: {said}");
}

#[test]
fn a_seed_names_a_picture() {
    let room = Room::new();
    let make = |seed: &str, output: &str| {
        let said = room.succeed(&small(&["generate", "x", "--seed", seed, "-o", output]));
        assert!(said.contains(&format!("seed {seed}")), "{said}");
        room.read(output)
    };
    let first = make("42", "a.png");
    assert_eq!(png_size(&first), (64, 96));
    assert_eq!(make("42", "b.png"), first);
    assert_ne!(make("43", "c.png"), first);
    assert_ne!(make("18446744073709551615", "d.png"), first);
    // An existing file is replaced as a whole.
    assert_ne!(make("44", "a.png"), first);
}

#[test]
fn quiet_says_the_name_and_the_seed() {
    let room = Room::new();
    let output = room.run(&small(&["generate", "x", "-q"]));
    assert!(output.status.success());
    assert_eq!(String::from_utf8_lossy(&output.stdout), "image.png\n");
    let said = String::from_utf8(output.stderr).expect("text");
    let seed = said.strip_prefix("image.png: seed ").expect("the seed").trim_end();
    room.succeed(&small(&["generate", "x", "-o", "again.png", "--seed", seed]));
    assert_eq!(room.read("again.png"), room.read("image.png"));
}

#[test]
fn a_long_prompt_is_cut_and_it_is_said() {
    let prompt = "apple ".repeat(2000);
    let said = Room::new().succeed(&small(&["generate", &prompt]));
    assert!(said.contains("512") && said.contains("truncated"), "{said}");
    let guided = ["--guidance-scale", "1", "--negative-prompt", &prompt];
    let said = Room::new().succeed(&small(&[&["generate", "x"], &guided[..]].concat()));
    assert!(said.contains("the negative prompt is") && said.contains("truncated"), "{said}");
}

#[test]
fn ctrl_c_stops_between_steps_and_leaves_nothing() {
    let room = Room::new();
    let args = ["generate", "x", "--steps", "200", "--width", "256", "--height", "256"];
    let mut child = room.command(&args).stderr(Stdio::piped()).spawn().expect("starts");
    let mut lines = BufReader::new(child.stderr.take().expect("piped")).lines();
    assert!(lines.by_ref().any(|line| line.expect("text").starts_with("step 2/200")));
    let pid = child.id().to_string();
    assert!(Command::new("kill").args(["-INT", &pid]).status().expect("kill is here").success());
    let rest: Vec<String> = lines.map(|line| line.expect("text")).collect();
    assert_eq!(child.wait().expect("ended").code(), Some(130), "{rest:?}");
    // The number of steps before the process handles the signal depends on the machine.
    assert!(!rest.iter().any(|line| line.starts_with("step 200/200")), "{rest:?}");
    assert!(rest.last().is_some_and(|line| line.contains("interrupted")), "{rest:?}");
    assert!(room.files().is_empty());
}
