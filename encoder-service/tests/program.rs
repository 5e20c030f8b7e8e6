//! The program as a person meets it.

use std::process::{Command, Output};

fn run(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_encoder-service")).args(args).output().expect("starts")
}

#[test]
fn help_teaches() {
    let output = run(&["--help"]);
    assert!(output.status.success());
    let text = String::from_utf8(output.stdout).expect("text");
    for word in ["Examples:", "--host", "--port", "50051"] {
        assert!(text.contains(word), "no {word} in: {text}");
    }
}

#[test]
fn a_wrong_command_line_exits_64() {
    for args in [&["--nonsense"][..], &["--port", "70000"], &["--host", "here"]] {
        let output = run(args);
        assert_eq!(output.status.code(), Some(64), "{args:?}");
        assert!(!output.stderr.is_empty(), "{args:?}");
    }
}

#[test]
fn the_address_of_another_machine_is_checked() {
    for url in ["mac:8000", "https://mac:8000", "http://mac:8000/v1"] {
        let output = run(&["--api-url", url]);
        assert_eq!(output.status.code(), Some(64), "{url}");
        let said = String::from_utf8(output.stderr).expect("text");
        assert!(said.contains("--api-url") && said.contains("http://HOST:PORT"), "{said}");
    }
}
