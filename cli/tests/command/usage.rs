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
    let short = String::from_utf8(room.run(&["-V"]).stdout).expect("text");
    assert_eq!(short.trim(), concat!("llm-dit ", env!("CARGO_PKG_VERSION")));
    let long = String::from_utf8(room.run(&["--version"]).stdout).expect("text");
    let lines: Vec<&str> = long.lines().collect();
    assert_eq!(lines[0], short.trim());
    assert!(lines[1].starts_with("backends: cpu"), "{long}");
    assert!(lines[2].starts_with("features: local") && lines[3].starts_with("target: "), "{long}");
}

#[test]
fn a_short_help_is_short_and_the_long_one_has_every_flag() {
    let room = Room::new();
    let help = |args: &[&str]| String::from_utf8(room.run(args).stdout).expect("text");
    for command in ["generate", "encode", "serve", "bench"] {
        let (short, long) = (help(&[command, "-h"]), help(&[command, "--help"]));
        assert!(short.lines().count() <= 45, "{command}: {}\n{short}", short.lines().count());
        assert!(short.contains("--help") && short.contains("--device"), "{short}");
        assert!(long.lines().count() > 2 * short.lines().count(), "{command}");
        assert!(long.contains("\nModel:\n") && long.contains("--vae-dtype"), "{long}");
        assert!(!short.contains("--vae-dtype"), "{short}");
    }
    let short = help(&["generate", "-h"]);
    for flag in ["-o, --output", "-W, --width", "-H, --height", "-s, --steps", "-S, --seed"] {
        assert!(short.contains(flag), "{flag}: {short}");
    }
    for flag in ["-n, --num-images", "-g, --guidance-scale", "-i, --image", "-t, --template"] {
        assert!(short.contains(flag), "{flag}: {short}");
    }
}

#[test]
fn names_of_other_programs_are_explained() {
    let room = Room::new();
    for (args, words) in [
        (&["--sampler", "euler"][..], "'--sampler'; use --scheduler"),
        (&["--sampling_method", "euler"], "use --scheduler"),
        (&["--cfg", "2"], "use --guidance-scale: 0 is without guidance, so it is one less"),
        (&["--cfg-scale", "2"], "use --guidance-scale"),
        (&["--guidance", "2"], "use --guidance-scale"),
        (&["--guidance_scale", "2"], "write it as --guidance-scale"),
        (&["--batch-size", "2"], "use --num-images"),
        (&["--negative", "blurry"], "use --negative-prompt"),
        (&["--size", "512x512"], "use --width: and --height"),
        (&["--lora-scale", "0.5"], "use --lora: the scale follows the path"),
        (&["--init-image", "a.png"], "use --image"),
        (&["--denoise", "0.5"], "use --strength"),
        (&["--ckpt", "a"], "use --model-path"),
        (&["--torch-dtype", "bf16"], "use --dtype"),
        (&["--flash-attn"], "all kernels are built in"),
        (&["--prompt", "x"], "the prompt is no flag"),
        (&["-p", "x"], "the prompt is no flag"),
        (&["--outdir", "x"], "use --output-dir"),
        (&["apple"], "put the prompt in quotes"),
        (&["--stepz", "3"], "did you mean --steps?"),
        (&["--port", "1"], "generate has no such flag, but serve has"),
        (&["--seed", "-1"], "from 0 to 18446744073709551615, or leave it out for a random one"),
        (&["-S", "-1"], "leave it out for a random one"),
        (&["-n", "blurry"], "use a whole number; a negative prompt is --negative-prompt"),
        (&["--width", "-16"], "-16 is not in 0.."),
        (&["-s", "few"], "use a whole number"),
        (&["-g", "much"], "use a number"),
        (&["--model", "models/Z-Image"], "a model folder is --model-path models/Z-Image"),
    ] {
        let said = room.fail(64, &[&["generate", "x"], args].concat());
        assert!(said.starts_with("error: ") && said.contains(words), "{args:?}: {said}");
        assert!(!said.contains("-- -"), "{args:?}: {said}");
    }
    // Every one of them is a flag that there is.
    let flags = ["-W", "64", "-H", "64", "-S", "5", "-n", "1", "--num-inference-steps", "1"];
    room.succeed(&[&["generate", "x", "-g", "0", "-q"], &flags[..]].concat());
    for (args, words) in [
        (&["txt2img", "x"][..], "use generate"),
        (&["a red apple"], "llm-dit generate \"a red apple\""),
        (&["genrate", "x"], "did you mean generate?"),
        (&["qqq"], "there are generate, encode, format"),
        (&["encode", "x", "--steps", "3"], "encode has no such flag, but generate"),
        (&["serve", "--listen", "0.0.0.0"], "use --host"),
    ] {
        let said = room.fail(64, args);
        assert!(said.starts_with("error: ") && said.contains(words), "{args:?}: {said}");
    }
}

#[test]
fn a_slip_has_one_status_and_every_error_one_prefix() {
    let room = Room::new();
    std::fs::write(room.path("text"), "no image, no tensors").expect("ours");
    for flag in ["--image", "--from", "--load-embeddings"] {
        for file in ["missing", "text"] {
            let said = room.fail(64, &["generate", flag, file]);
            assert!(said.lines().any(|line| line.starts_with("error: ")), "{flag} {file}: {said}");
        }
    }
    for args in [
        &["generate", "--prompts", "missing"][..],
        &["generate", "x", "--latents", "missing"],
        &["generate", "x", "--lora", "missing"],
        &["generate", "x", "--template", "missing"],
        &["generate", "x", "--templates-dir", "missing", "--template", "noir"],
        &["generate", "x", "--model-path", "missing"],
        &["generate", "x", "--config", "missing"],
        &["generate", "x", "--gateway", "ftp://host"],
        &["generate", "x", "--gateway", "host:7860", "--gateway-key-file", "missing"],
        &["format", "x", "--model-path", "missing"],
        &["encode", "x", "--model-path", "missing"],
        &["serve", "--model-path", "missing", "--port", "0"],
        &["serve", "--keys", "missing", "--port", "0"],
        &["bench", "--compare", "missing"],
        &["templates", "--templates-dir", "missing"],
        &["templates", "show", "missing"],
        &["man", "missing"],
    ] {
        let said = room.fail(64, args);
        assert!(said.lines().any(|line| line.starts_with("error: ")), "{args:?}: {said}");
    }
}

#[test]
fn completions_and_man_pages_know_every_command() {
    let room = Room::new();
    let stdout = |args: &[&str]| {
        let output = room.run(args);
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).expect("text")
    };
    for shell in ["bash", "zsh", "fish", "powershell"] {
        let script = stdout(&["completions", shell]);
        for word in ["guidance-scale", "certificates", "profile"] {
            assert!(script.contains(word), "{shell} {word}");
        }
    }
    assert!(stdout(&["man"]).contains("llm\\-dit"));
    let page = stdout(&["man", "generate"]);
    assert!(page.contains("\\-\\-guidance\\-scale") && page.contains(".TH"), "{page}");
    stdout(&["man", "--output-dir", "man1"]);
    for page in ["llm-dit.1", "llm-dit-generate.1", "llm-dit-config-show.1"] {
        assert!(room.path("man1").join(page).exists(), "{page}");
    }
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
        (&["generate", "x", "--width", "-16"], "-16 is not in 0.."),
        (&["generate", "x", "--steps", "0"], "steps 0 is out of range"),
        (&["generate", "x", "--guidance-scale", "NaN"], "guidance_scale"),
        (&["generate", "x", "--shift", "0"], "shift"),
        (&["generate", "x", "--scheduler", "heun"], "did you mean 'flow_heun'?"),
        (&["generate", "x", "--scheduler", "ddim"], "known are flow_euler, flow_heun"),
        (&["generate", "x", "--dtype", "int8"], "use f32, bf16 or f16"),
        (&["generate", "x", "--device", "tpu"], "use auto, cpu, cuda"),
        (&["generate", "x", "--seed", "-1"], "leave it out for a random one"),
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
    for path in ["./no/such", "no", "no/such/"] {
        let said = room.fail(64, &["generate", "x", "--model-path", path]);
        assert!(said.contains(path) && said.contains("model_index.json"), "{said}");
    }
    // It can be a repository's name.
    let said = room.fail(64, &["generate", "x", "--model-path", "no/such"]);
    assert!(
        said.contains("there is no no/such") && said.contains("llm-dit pull no/such"),
        "{said}"
    );
    std::fs::create_dir(room.path("empty")).expect("ours");
    let said = room.fail(64, &["encode", "x", "--model-path", "empty"]);
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
