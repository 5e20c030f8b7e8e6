//! The pages under `docs/` name every flag and every key.

use std::{collections::BTreeSet, fs, path::Path};

use crate::support::Room;

fn docs() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs")
}

/// Names of the long flags that stand at the beginning of lines of a help text.
fn flags(help: &str) -> BTreeSet<String> {
    let flag = |line: &str| {
        let line = line.trim_start();
        let (_, after) = line.starts_with('-').then(|| line.split_once("--")).flatten()?;
        let end = after.find(|c: char| !c.is_ascii_lowercase() && !c.is_ascii_digit() && c != '-');
        Some(after[..end.unwrap_or(after.len())].to_owned())
    };
    help.lines().filter_map(flag).collect()
}

/// True when the text has this word, and not only as the beginning of a longer one.
fn names(text: &str, word: &str) -> bool {
    text.match_indices(word).any(|(at, _)| {
        let next = text[at + word.len()..].chars().next();
        !next.is_some_and(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_')
    })
}

#[test]
fn every_flag_is_on_a_page() {
    let room = Room::new();
    let pages: String = ["guide", "api", "operate", "reference"]
        .into_iter()
        .flat_map(|folder| fs::read_dir(docs().join(folder)).expect("it ships with the repository"))
        .map(|entry| entry.expect("readable").path())
        .filter(|path| path.extension().is_some_and(|end| end == "md"))
        .map(|path| fs::read_to_string(path).expect("text"))
        .collect();
    for command in [
        &["generate"][..],
        &["encode"],
        &["serve"],
        &["bench"],
        &["format"],
        &["templates"],
        &["templates", "show"],
        &["config", "show"],
        &["pull"],
        &["list"],
        &["rm"],
        &["doctor"],
    ] {
        let help = room.run(&[command, &["--help"]].concat()).stdout;
        let flags = flags(&String::from_utf8(help).expect("text"));
        assert!(flags.contains("config") && flags.len() >= 4, "{command:?}: {flags:?}");
        let missing: Vec<&String> =
            flags.iter().filter(|flag| !names(&pages, &format!("--{flag}"))).collect();
        assert!(missing.is_empty(), "no page under docs/ names {missing:?} of {command:?}");
    }
}

#[test]
fn every_key_is_on_the_page_about_configuration() {
    let page = fs::read_to_string(docs().join("guide/configuration.md")).expect("a page");
    let missing: Vec<&str> = llm_dit_settings::KEYS
        .iter()
        .map(|key| key.path)
        .filter(|path| !names(&page, &format!("`{path}`")))
        .collect();
    assert!(missing.is_empty(), "docs/guide/configuration.md does not name {missing:?}");
}

#[test]
fn flags_and_words_are_told_apart() {
    let help =
        "Options:\n  -o, --output <FILE>\n      --num-images <N>  See --seed\n  -h, --help\n";
    let expected = ["help", "num-images", "output"].map(str::to_owned);
    assert_eq!(flags(help), expected.into());
    assert!(names("`--output FILE`", "--output"));
    assert!(!names("`--output-dir DIR`", "--output"));
}
