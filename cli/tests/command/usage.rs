//! Command lines that cannot be: status 64, a message that helps, and no weights loaded for it.

use std::time::{Duration, Instant};

use crate::support::Room;

#[test]
fn help_and_version_are_no_errors() {
    let room = Room::new();
    for args in [
        &["--help"][..],
        &["generate", "--help"],
        &["serve", "-h"],
        &["encode", "--help"],
        &["bench", "--help"],
        &["format", "--help"],
        &["templates", "--help"],
        &["templates", "show", "--help"],
    ] {
        let output = room.run(args);
        assert_eq!(output.status.code(), Some(0), "{args:?}");
        let help = String::from_utf8(output.stdout).expect("text");
        assert!(help.contains("Usage: llm-dit"), "{help}");
    }
    let version = room.run(&["--version"]).stdout;
    assert_eq!(
        String::from_utf8_lossy(&version).trim(),
        concat!("llm-dit ", env!("CARGO_PKG_VERSION"))
    );
}

#[test]
fn wrong_flags_end_with_64_before_any_work() {
    let room = Room::new();
    for (args, words) in [
        (&["generate"][..], "say what to draw"),
        (&["generate", ""], "the prompt is empty"),
        (&["generate", "  "], "the prompt is empty"),
        (&["generate", "x", "--width", "250"], "240 and 256"),
        (&["generate", "x", "--width", "0"], "width 0 is out of range"),
        (&["generate", "x", "--height", "100000"], "height 100000 is out of range"),
        (&["generate", "x", "--width", "-16"], "unexpected argument"),
        (&["generate", "x", "--steps", "0"], "steps 0 is out of range"),
        (&["generate", "x", "--guidance-scale", "NaN"], "guidance_scale"),
        (&["generate", "x", "--shift", "0"], "shift"),
        (&["generate", "x", "--scheduler", "heun"], "did you mean 'flow_heun'?"),
        (&["generate", "x", "--scheduler", "ddim"], "known are flow_euler, flow_heun"),
        (&["generate", "x", "--dtype", "int8"], "use f32, bf16 or f16"),
        (&["generate", "x", "--device", "tpu"], "use auto, cpu, cuda"),
        (&["generate", "x", "--seed", "-1"], "unexpected argument"),
        (&["generate", "x", "--stepz", "3"], "--steps"),
        (&["generate", "x", "--output", "."], "it is a folder"),
        (&["generate", "x", "--output", "nowhere/image.png"], "there is no folder nowhere"),
        (&["generate", "x", "--output-latents", "nowhere/x"], "there is no folder nowhere"),
        (&["generate", "x", "--load-embeddings", "x"], "not both"),
        (&["generate", "x", "--strength", "0.5"], "set --image"),
        (&["encode"], "<PROMPTS>"),
        (&["serve", "--port", "70000"], "--port"),
        (&["draw", "x"], "unrecognized subcommand"),
    ] {
        let begun = Instant::now();
        let said = room.fail(64, args);
        assert!(said.contains(words), "{args:?}: {said}");
        assert!(begun.elapsed() < Duration::from_secs(2), "{args:?} took {:?}", begun.elapsed());
    }
}

#[test]
fn a_model_that_is_not_there_is_named() {
    let room = Room::new();
    let said = room.fail(1, &["generate", "x", "--model-path", "no/such"]);
    assert!(said.contains("no/such") && said.contains("model_index.json"), "{said}");
    std::fs::create_dir(room.path("empty")).expect("ours");
    let said = room.fail(1, &["encode", "x", "--model-path", "empty"]);
    assert!(said.contains("empty") && said.contains("model_index.json"), "{said}");
}

#[test]
fn a_wrong_variable_is_named() {
    let room = Room::new();
    let output = room.command(&["generate", "x"]).env("LLM_DIT_STEPS", "few").output();
    let output = output.expect("the program starts");
    let said = String::from_utf8(output.stderr).expect("text");
    assert_eq!(output.status.code(), Some(64), "{said}");
    assert!(said.contains("LLM_DIT_STEPS") && said.contains("few"), "{said}");
}

#[test]
fn what_a_gateway_cannot_do_is_refused() {
    let room = Room::new();
    for flag in ["--save-embeddings", "--latents", "--output-latents", "--model-path"] {
        let said = room.fail(64, &["generate", "x", "--gateway", "http://127.0.0.1:9", flag, "f"]);
        assert!(said.contains(flag) && said.contains("--gateway"), "{said}");
    }
    let said = room.fail(1, &["generate", "x", "--gateway", "http://127.0.0.1:9"]);
    assert!(said.contains("http://127.0.0.1:9") && said.contains("refused"), "{said}");
}
