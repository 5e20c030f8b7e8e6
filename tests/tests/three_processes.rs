//! The three programs as processes of their own: the picture that comes out is the one that a
//! single process makes, byte for byte.

use std::{
    env, fs,
    io::{BufRead as _, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use llm_dit_tests::repository;

/// A running service, stopped when the test ends, however it ends.
struct Process {
    child: Child,
    url: String,
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
            let entry: serde_json::Value = serde_json::from_str(&line).expect("a JSON log line");
            if let Some(address) = entry["address"].as_str() {
                break format!("http://{address}");
            }
        };
        // Keep reading, so that the program never waits for us.
        std::thread::spawn(move || log.lines().for_each(drop));
        Self { child, url }
    }

    /// Asks it to end, and returns its status.
    fn stop(mut self) -> Option<i32> {
        let pid = self.child.id().to_string();
        assert!(
            Command::new("kill").args(["-TERM", &pid]).status().expect("kill is here").success()
        );
        self.child.wait().expect("ended").code()
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
