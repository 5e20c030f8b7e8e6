//! Several pictures: of one prompt, and of files of prompts.

use std::{
    fs,
    io::{BufRead as _, BufReader},
    process::{Command, Stdio},
};

use crate::support::{Room, png_size};

const SMALL: [&str; 6] = ["--width", "64", "--height", "64", "--steps", "2"];

fn small<'a>(args: &[&'a str]) -> Vec<&'a str> {
    args.iter().copied().chain(SMALL).collect()
}

fn names(room: &Room, folder: &str) -> Vec<String> {
    let entries = fs::read_dir(room.path(folder)).expect("a folder");
    let name = |e: std::io::Result<fs::DirEntry>| e.expect("readable").file_name();
    let mut names: Vec<String> = entries.map(|e| name(e).to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

#[test]
fn seeds_count_up() {
    let room = Room::new();
    let said = room.succeed(&small(&["generate", "x", "--num-images", "3", "--seed", "41"]));
    assert!(said.contains("image 3/3, step 2/2") && said.contains("seed 43"), "{said}");
    assert_eq!(said.matches("load and encode").count(), 1, "{said}");
    assert_eq!(room.files(), ["image-2.png", "image-3.png", "image.png"]);
    room.succeed(&small(&["generate", "x", "--seed", "43", "-o", "one.png"]));
    assert!(room.read("one.png") == room.read("image-3.png"), "as if it were alone");
    // The highest seed is followed by the lowest.
    let last = u64::MAX.to_string();
    let pattern = ["-o", "{index:03}-{seed}-{prompt}.png", "--num-images", "2", "--seed", &last];
    room.succeed(&small(&[&["generate", "A fox!"][..], &pattern].concat()));
    let files = room.files();
    assert!(files.contains(&format!("001-{last}-a-fox.png")), "{files:?}");
    assert!(files.contains(&"002-0-a-fox.png".to_owned()), "{files:?}");
}

/// On the CPU only when it is asked for.
#[test]
fn pictures_of_one_size_are_made_together() {
    let room = Room::new();
    let five = ["generate", "x", "--num-images", "5", "--seed", "1", "--max-batch", "2"];
    let said = room.succeed(&small(&[&five[..], &["-o", "{seed}.png"]].concat()));
    for batch in ["images 1 to 2/5, step 2/2", "images 3 to 4/5, step 1/2", "image 5/5, step"] {
        assert_eq!(
            said.matches(batch).count(),
            if batch.ends_with("step") { 2 } else { 1 },
            "{said}"
        );
    }
    assert_eq!(room.files(), ["1.png", "2.png", "3.png", "4.png", "5.png"]);
    room.succeed(&small(&["generate", "x", "--seed", "4", "-o", "alone.png"]));
    let pixels = |name: &str| image::open(room.path(name)).expect("a PNG").into_rgb8().into_raw();
    let (together, alone) = (pixels("4.png"), pixels("alone.png"));
    let apart = together.iter().zip(&alone).map(|(a, b)| a.abs_diff(*b)).max();
    println!("at most {apart:?} levels from the picture made alone");
    assert!(apart <= Some(1));

    // A line of another size is by itself.
    let lines = "a\nb\n{\"prompt\": \"c\", \"width\": 80}\nd\n";
    fs::write(room.path("p.jsonl"), lines).expect("ours");
    let files = ["generate", "--prompts", "p.jsonl", "--output-dir", "out", "--max-batch", "4"];
    let said = room.succeed(&small(&files));
    for batch in ["images 1 to 2/4, step 1/2", "image 3/4, step 1/2", "image 4/4, step 1/2"] {
        assert!(said.contains(batch), "{said}");
    }
    assert_eq!(names(&room, "out").len(), 4);
}

#[test]
fn what_cannot_be_is_refused() {
    let room = Room::new();
    fs::write(room.path("p.txt"), "x\n").expect("ours");
    image::RgbImage::new(64, 64).save(room.path("p.png")).expect("ours");
    fs::write(room.path("bad.jsonl"), "x\n{\"prompt\": \"y\", \"widht\": 64}\n").expect("ours");
    fs::write(room.path("wide.jsonl"), "\n{\"prompt\": \"y\", \"width\": 250}\n").expect("ours");
    fs::write(room.path("two.txt"), "x\ny\n").expect("ours");
    for (args, words) in [
        (&["x", "--num-images", "0"][..], "--num-images"),
        (&["x", "--max-batch", "0"], "--max-batch"),
        (&["x", "--vae-tiling", "yes"], "auto, on and off"),
        (&["x", "-o", "a.gif"], ".gif is not supported"),
        (&["x", "-o", "{sed}.png"], "{sed} is not known"),
        (&["x", "--quality", "101"], "--quality"),
        (&["x", "--strength", "2", "--image", "p.png"], "strength"),
        (&["x", "--image", "p.txt"], "p.txt: the image is not a PNG, JPEG or WebP file"),
        (&["x", "--prompts", "p.txt"], "a prompt applies to one image"),
        (&["--prompts", "p.txt", "--output-latents", "l"], "--output-latents applies to one image"),
        (&["--prompts", "p.txt", "-o", "{seed}.png"], "set --seed"),
        (
            &["--prompts", "bad.jsonl"],
            "bad.jsonl line 2: unknown key 'widht'; did you mean 'width'",
        ),
        (&["--prompts", "wide.jsonl"], "wide.jsonl line 2: width 250"),
        (&["--prompts", "two.txt", "-o", "a.png"], "two images would be written to a.png"),
    ] {
        let said = room.fail(64, &[&["generate"], args].concat());
        assert!(said.contains(words), "{args:?}: {said}");
    }
}

#[test]
fn a_file_of_prompts_is_taken_up_where_it_was_left() {
    let room = Room::new();
    let line = "{\"prompt\": \"a blue car\", \"steps\": 3, \"seed\": 9, \"num_images\": 2}";
    fs::write(room.path("p.txt"), format!("# two\na red apple\n\n{line}\n")).expect("ours");
    let args = small(&["generate", "--prompts", "p.txt", "--output-dir", "out/deep"]);
    let said = room.succeed(&args);
    assert!(said.contains("image 1/3") && said.contains("3 steps"), "{said}");
    let all = ["0001-a-red-apple.png", "0002-a-blue-car-2.png", "0002-a-blue-car.png"];
    assert_eq!(names(&room, "out/deep"), all);
    let read = || all.map(|name| room.read(&format!("out/deep/{name}")));
    let first = read();
    assert_eq!(png_size(&first[0]), (64, 64));

    let said = room.succeed(&args);
    assert!(said.contains("3 of 3 images exist") && !said.contains("step 1"), "{said}");
    assert!(first == read());

    // One is cut short, one is missing.
    fs::write(room.path("out/deep/0002-a-blue-car.png"), &first[2][..first[2].len() / 2])
        .expect("ours");
    fs::remove_file(room.path("out/deep/0002-a-blue-car-2.png")).expect("ours");
    let said = room.succeed(&args);
    assert!(said.contains("1 of 3 images exist") && said.contains("damaged"), "{said}");
    assert!(first == read(), "the same seeds, the same files");

    // Other parameters are other pictures.
    let said = room.succeed(&[&args[..], &["--guidance-scale", "1"]].concat());
    assert!(said.contains("another guidance_scale; generating it again"), "{said}");
    assert!(!said.contains("images exist"), "{said}");
}

#[test]
fn ctrl_c_leaves_whole_files_only() {
    let room = Room::new();
    fs::write(room.path("p.txt"), "one\ntwo\nthree\n").expect("ours");
    let args = ["generate", "--prompts", "p.txt", "--output-dir", "out", "--steps", "60"];
    let mut child = room.command(&args).stderr(Stdio::piped()).spawn().expect("starts");
    let mut lines = BufReader::new(child.stderr.take().expect("piped")).lines();
    let begun = lines.by_ref().any(|l| l.expect("text").starts_with("image 2/3, step 2/60"));
    assert!(begun);
    let pid = child.id().to_string();
    assert!(Command::new("kill").args(["-INT", &pid]).status().expect("kill is here").success());
    let rest: Vec<String> = lines.map(|line| line.expect("text")).collect();
    assert_eq!(child.wait().expect("ended").code(), Some(130), "{rest:?}");
    let last = rest.last().expect("a last word");
    assert!(last.contains("interrupted; 1 of 3 images were written"), "{rest:?}");
    assert_eq!(names(&room, "out"), ["0001-one.png"]);
    png_size(&room.read("out/0001-one.png"));
}
