//! The three programs as processes of their own: the picture that comes out is the one that a
//! single process makes, byte for byte.

use std::{fs, process::Command};

use llm_dit_tests::{
    process::{Process, program},
    repository,
};

#[test]
fn three_processes_make_the_picture_of_one() {
    let room = tempfile::tempdir().expect("a folder");
    let model = repository("models/demo");
    let model = ["--model-path", model.to_str().expect("a path of text")];
    let encoder = Process::start("encoder-service", &model);
    let diffusion = Process::start("diffusion-service", &model);
    let pulling_args = [&model[..], &["--encoder", &encoder.url]].concat();
    let pulling = Process::start("diffusion-service", &pulling_args);
    let gateway = Process::start(
        "gateway",
        &["--no-history", "--encoder", &encoder.url, "--diffusion", &diffusion.url],
    );
    // This one has no encoder: the diffusion service fetches the embeddings itself.
    let bare = Process::start("gateway", &["--no-history", "--diffusion", &pulling.url]);

    let generate = |name: &str, args: &[&str]| {
        let output = room.path().join(name);
        let made = Command::new(program("llm-dit"))
            .args([
                "generate",
                "a rocket on a purple background",
                "--seed",
                "4294967297",
                "--quiet",
            ])
            .args(args)
            .arg("--output")
            .arg(&output)
            .status();
        assert!(made.expect("the program starts").success(), "{args:?}");
        fs::read(output).expect("a picture")
    };
    let guided = [
        "--guidance-scale",
        "1.5",
        "--negative-prompt",
        "blurry",
        "--width",
        "320",
        "--steps",
        "4",
    ];
    for extra in [&[][..], &guided] {
        let one = generate("one.png", &[&model[..], extra].concat());
        for gateway in [&gateway, &bare] {
            let three = generate("three.png", &[&["--gateway", &gateway.url], extra].concat());
            assert!(one == three, "{extra:?}: the pictures differ");
        }
    }
    for process in [bare, gateway, pulling, diffusion, encoder] {
        assert_eq!(process.stop(), Some(0), "a shutdown that was asked for is no failure");
    }
}
