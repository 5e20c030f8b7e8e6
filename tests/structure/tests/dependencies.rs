//! What must not hold candle, asked of cargo.

use std::{fs, path::Path, process::Command};

fn root() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// Names of the packages that cargo would build for this choice.
fn packages(choice: &[&str]) -> Vec<String> {
    let output = Command::new(env!("CARGO"))
        .args(["tree", "--locked", "--prefix", "none", "--format", "{p}"])
        .args(choice)
        .current_dir(root())
        .output()
        .expect("cargo starts");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "cargo tree {choice:?}: {said}");
    let names = String::from_utf8(output.stdout).expect("text");
    names.lines().filter_map(|line| Some(line.split_whitespace().next()?.to_owned())).collect()
}

fn holds(choice: &[&str], part: &str) -> bool {
    packages(choice).iter().any(|name| name.starts_with(part))
}

#[test]
fn the_gateway_holds_no_candle() {
    let gateway = ["-p", "gateway", "-e", "normal"];
    assert!(holds(&gateway, "axum"));
    assert!(!holds(&gateway, "candle"));
}

#[test]
fn a_client_without_engines_holds_no_candle_and_no_server() {
    let thin = ["-p", "llm-dit", "-e", "normal", "--no-default-features"];
    assert!(holds(&thin, "reqwest"));
    for part in ["candle", "encoder-service", "gateway", "llm-dit-kernels"] {
        assert!(!holds(&thin, part), "{part}");
        let whole = ["-p", "llm-dit", "-e", "normal"];
        assert!(holds(&whole, part), "{part} is what `local` brings");
    }
}

#[test]
fn the_quick_check_builds_no_candle() {
    let justfile = fs::read_to_string(root().join("justfile")).expect("a justfile");
    let line = justfile.lines().find_map(|line| line.strip_prefix("without_candle := "));
    let choice = line.expect("the choice of crates").trim_matches('"').to_owned();
    let choice: Vec<&str> = choice.split_whitespace().collect();
    assert!(holds(&choice, "gateway"));
    assert!(!holds(&choice, "candle"), "exclude what holds candle from the justfile's choice");
    let contributing = fs::read_to_string(root().join("CONTRIBUTING.md")).expect("a page");
    assert!(contributing.contains(&choice.join(" ")), "CONTRIBUTING.md names another choice");
}
