//! `--max-vram`, on the CPU: a plan that works is printed and kept to, one that cannot is refused.

use crate::support::Room;

const SMALL: [&str; 9] =
    ["generate", "a red apple", "--device", "cpu", "--seed", "3", "--steps", "1", "--quiet"];

/// Size that a message names after these words, as a flag's value.
fn size(said: &str, before: &str) -> String {
    let at = said.find(before).unwrap_or_else(|| panic!("no {before} in {said}")) + before.len();
    let mut words = said[at..].split_whitespace();
    let number = words.next().expect("a number");
    assert!(words.next().is_some_and(|unit| unit.starts_with("MiB")), "{said}");
    format!("{number}M")
}

#[test]
fn a_plan_that_cannot_work_names_the_least_and_the_least_works() {
    let room = Room::new();
    let with = |output: &'static str, flags: &[&'static str]| {
        [&SMALL[..8], &["--width", "512", "--height", "512", "-o", output], flags].concat()
    };
    let said = room.fail(64, &with("a.png", &["--max-vram", "1M"]));
    assert!(said.contains("--max-vram is 1 MiB"), "{said}");
    assert!(said.contains("--cpu-offload"), "{said}");
    let least = size(&said, "needs at least ");

    let limited = |flags: &[&str]| {
        let args = with("a.png", &[]);
        room.run(&[&args[..], &["--max-vram", &least], flags].concat())
    };
    let made = limited(&[]);
    let said = String::from_utf8(made.stderr).expect("text");
    assert_eq!(made.status.code(), Some(0), "{said}");
    for part in [
        "memory plan for cpu: at most ",
        "(--max-vram)",
        "transformer",
        "loaded for each use",
        "decode:",
    ] {
        assert!(said.contains(part), "no {part} in {said}");
    }
    assert!(said.contains("in bands"), "{said}");

    // What the user fixed is not given up for it.
    let refused = limited(&["--cpu-offload=false"]);
    let said = String::from_utf8(refused.stderr).expect("text");
    assert_eq!(refused.status.code(), Some(64), "{said}");
    assert!(said.contains("without --cpu-offload=false"), "{said}");

    // Bands and parts that take turns give the same image.
    room.succeed(&with("whole.png", &[]));
    let (limited, whole) = (room.pixels("a.png"), room.pixels("whole.png"));
    let worst = limited.iter().zip(&whole).map(|(a, b)| a.abs_diff(*b)).max();
    assert!(worst <= Some(1), "{worst:?}");
}

#[test]
fn without_a_limit_the_cpu_has_no_plan() {
    let room = Room::new();
    let said =
        room.succeed(&[&SMALL[..8], &["--width", "64", "--height", "64", "-o", "a.png"]].concat());
    assert!(!said.contains("memory plan"), "{said}");
    let said = room.succeed(&[&["doctor", "--device", "cpu"][..]].concat());
    assert!(!said.contains("memory plan"), "{said}");
}

#[test]
fn doctor_prints_the_plan_and_what_is_missing() {
    let room = Room::new();
    let doctor = |limit: &str| room.run(&["doctor", "--device", "cpu", "--max-vram", limit]);
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("text");
    let fits = doctor("4G");
    assert_eq!(fits.status.code(), Some(0), "{}", text(fits.stderr));
    let said = text(fits.stdout);
    assert!(said.contains("memory plan for cpu: at most 4.0 GiB (--max-vram)"), "{said}");
    let small = doctor("1M");
    assert_eq!(small.status.code(), Some(1));
    let said = text(small.stdout);
    assert!(said.contains("problems") && said.contains("needs at least"), "{said}");
}

#[test]
fn a_size_that_is_none_is_refused() {
    let room = Room::new();
    let said = room.fail(64, &["generate", "x", "--max-vram", "8GB"]);
    assert!(said.contains("--max-vram") && said.contains("auto"), "{said}");
}
