//! The three programs as processes of their own: the picture that comes out is the one that a
//! single process makes, byte for byte, and what they tell of a request fits together.

use std::{
    env, fs,
    io::{BufRead as _, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread::{self, JoinHandle},
};

use llm_dit_tests::{fakes::Collector, repository};
use serde_json::{Value, json};

/// A running service, stopped when the test ends, however it ends.
struct Process {
    child: Child,
    url: String,
    /// What it logs once it serves.
    log: Option<JoinHandle<Vec<Value>>>,
}

impl Process {
    /// Starts it on a free port and waits until its log says that it serves.
    fn start(program: &Path, args: &[&str]) -> Self {
        let mut child = Command::new(program)
            .args(["--port", "0", "--log-format", "json", "--log-filter", "info"])
            .args(args)
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|e| panic!("{}: {e}", program.display()));
        let mut log = BufReader::new(child.stderr.take().expect("piped"));
        let url = loop {
            let mut line = String::new();
            let read = log.read_line(&mut line).expect("a log of text");
            assert!(read > 0, "{} ended before it served", program.display());
            let entry: Value = serde_json::from_str(&line).expect("a JSON log line");
            if let Some(address) = entry["address"].as_str() {
                break format!("http://{address}");
            }
        };
        // Keep reading, so that the program never waits for us.
        let entries = |line: Result<String, _>| serde_json::from_str(&line.ok()?).ok();
        let log = thread::spawn(move || log.lines().filter_map(entries).collect());
        Self { child, url, log: Some(log) }
    }

    /// Asks it to end, and returns its status.
    fn stop(self) -> Option<i32> {
        self.end().0
    }

    /// Asks it to end, and returns its status and what it had logged.
    fn end(mut self) -> (Option<i32>, Vec<Value>) {
        let pid = self.child.id().to_string();
        assert!(
            Command::new("kill").args(["-TERM", &pid]).status().expect("kill is here").success()
        );
        let code = self.child.wait().expect("ended").code();
        let log = self.log.take().expect("not read yet").join().expect("no panic");
        (code, log)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Has ended already unless the test failed.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The folder of the programs. `cargo test --workspace` has built them before any test runs, since
/// each package has a test of its own program.
fn programs() -> PathBuf {
    let test = env::current_exe().expect("a path");
    let folder = test.parent().and_then(Path::parent).expect("target/PROFILE/deps").to_owned();
    for name in ["encoder-service", "diffusion-service", "gateway", "llm-dit"] {
        let program = folder.join(name);
        assert!(program.is_file(), "no {}; run the tests with --workspace", program.display());
    }
    folder
}

#[test]
fn three_processes_make_the_picture_of_one() {
    let programs = programs();
    let room = tempfile::tempdir().expect("a folder");
    let model = repository("models/demo");
    let model = ["--model-path", model.to_str().expect("a path of text")];
    let encoder = Process::start(&programs.join("encoder-service"), &model);
    let diffusion = Process::start(&programs.join("diffusion-service"), &model);
    let pulling_args = [&model[..], &["--encoder", &encoder.url]].concat();
    let pulling = Process::start(&programs.join("diffusion-service"), &pulling_args);
    let gateway = Process::start(
        &programs.join("gateway"),
        &["--no-history", "--encoder", &encoder.url, "--diffusion", &diffusion.url],
    );
    // This one has no encoder: the diffusion service fetches the embeddings itself.
    let bare =
        Process::start(&programs.join("gateway"), &["--no-history", "--diffusion", &pulling.url]);

    let generate = |name: &str, args: &[&str]| {
        let output = room.path().join(name);
        let made = Command::new(programs.join("llm-dit"))
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
    let programs = programs();
    let collector = Collector::start().await;
    let model = repository("models/demo");
    let model = ["--model-path", model.to_str().expect("a path of text")];
    let traced = ["--otlp-endpoint", &collector.url];
    let start = |program: &str, args: &[&str]| {
        Process::start(&programs.join(program), &[args, &traced[..]].concat())
    };
    let encoder = start("encoder-service", &model);
    let diffusion = start("diffusion-service", &model);
    let services = ["--encoder", &encoder.url, "--diffusion", &diffusion.url];
    let gateway = start("gateway", &[&["--no-history"], &services[..]].concat());

    let trace = "4bf92f3577b34da6a3ce929d0e0e4736";
    let request = reqwest::Client::new().post(format!("{}/api/generate", gateway.url));
    let request = request
        .header("x-request-id", "mine")
        .header("traceparent", format!("00-{trace}-00f067aa0ba902b7-01"));
    let response = request.json(&json!({"prompt": "a rocket", "seed": 1})).send().await;
    let response = response.expect("an answer");
    assert_eq!(
        (response.status().as_u16(), &*response.headers()["x-request-id"].as_bytes()),
        (200, &b"mine"[..])
    );
    response.bytes().await.expect("a picture");

    // Each sends its last spans when it ends.
    for (process, span, message) in [
        (gateway, "http", "made a picture"),
        (diffusion, "grpc", "made a picture"),
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
