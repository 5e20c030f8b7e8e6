//! The three programs as processes of their own: the picture that comes out is the one that a
//! single process makes, byte for byte, and what they tell of a request fits together.

use std::{fs, process::Command};

use llm_dit_testkit::{
    fakes::Collector,
    http,
    process::{Process, program},
    repository,
};
use serde_json::json;

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

#[tokio::test(flavor = "multi_thread")]
async fn three_processes_tell_of_one_request_under_one_id_and_in_one_trace() {
    let collector = Collector::start().await;
    let model = repository("models/demo");
    let model = ["--model-path", model.to_str().expect("a path of text")];
    let traced = ["--otlp-endpoint", &collector.url];
    let start =
        |program: &str, args: &[&str]| Process::start(program, &[args, &traced[..]].concat());
    let encoder = start("encoder-service", &model);
    let diffusion = start("diffusion-service", &model);
    let services = ["--encoder", &encoder.url, "--diffusion", &diffusion.url];
    let gateway = start("gateway", &[&["--no-history"], &services[..]].concat());

    let trace = "4bf92f3577b34da6a3ce929d0e0e4736";
    let request = http().post(format!("{}/api/generate", gateway.url));
    let request = request
        .header("x-request-id", "mine")
        .header("traceparent", format!("00-{trace}-00f067aa0ba902b7-01"));
    let response = request.json(&json!({"prompt": "a rocket", "seed": 1})).send().await;
    let response = response.expect("an answer");
    assert_eq!(response.status(), 200);
    assert_eq!(response.headers()["x-request-id"], "mine");
    response.bytes().await.expect("a picture");

    // Each sends its last spans when it ends.
    for (process, span, message) in [
        (gateway, "http", "generated an image"),
        (diffusion, "grpc", "generated an image"),
        (encoder, "grpc", "encoded"),
    ] {
        let (code, log) = process.end();
        assert_eq!(code, Some(0));
        let line = log.iter().find(|line| line["message"] == message);
        let line = line.unwrap_or_else(|| panic!("no '{message}' in {log:#?}"));
        let outermost = &line["spans"][0];
        assert_eq!((&outermost["name"], &outermost["request_id"]), (&json!(span), &json!("mine")));
    }
    let spans = collector.trace(trace);
    let parent_of = |name: &str| {
        let span = spans.iter().find(|span| span.name == name);
        let span = span.unwrap_or_else(|| panic!("no {name} in {spans:#?}"));
        let parent = spans.iter().find(|other| other.id == span.parent);
        (
            span.service.as_str(),
            parent.map(|parent| (parent.service.as_str(), parent.name.as_str())),
        )
    };
    let (gateway, encoder, diffusion) = ("gateway", "encoder-service", "diffusion-service");
    let (encode, generate) = ("llmdit.v1.Encoder/Encode", "llmdit.v1.Diffusion/Generate");
    assert_eq!(parent_of("POST /api/generate"), (gateway, None));
    assert_eq!(parent_of(encode), (encoder, Some((gateway, "embeddings"))));
    assert_eq!(parent_of("encode"), (encoder, Some((encoder, encode))));
    assert_eq!(parent_of(generate), (diffusion, Some((gateway, "draw"))));
    assert_eq!(parent_of("denoise"), (diffusion, Some((diffusion, "generate"))));
    assert_eq!(parent_of("decode"), (diffusion, Some((diffusion, "generate"))));
}
