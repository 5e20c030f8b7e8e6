//! `llm-dit serve`, and the same picture through it as without it.

use std::{
    io::{BufRead as _, BufReader},
    process::{Child, Command, Stdio},
};

use llm_dit_testkit::http;

use crate::support::{Room, png_size};

pub struct Server {
    child: Child,
    pub url: String,
}

impl Server {
    fn start(room: &Room) -> Self {
        Self::with(room, &[])
    }

    pub fn with(room: &Room, more: &[&str]) -> Self {
        Self::run(room, &[&["--no-history"], more].concat())
    }

    pub fn run(room: &Room, more: &[&str]) -> Self {
        let words = ["serve", "--port", "0", "--log-filter", "warn"];
        let mut command = room.command(&[&words, more].concat());
        let mut child = command.stdout(Stdio::piped()).spawn().expect("starts");
        let mut line = String::new();
        let stdout = child.stdout.take().expect("piped");
        BufReader::new(stdout).read_line(&mut line).expect("text");
        let at = line.find("http").unwrap_or_else(|| panic!("no address in {line:?}"));
        Self { child, url: line[at..].trim().to_owned() }
    }

    /// What `kill` makes of it.
    fn stop(mut self, signal: &str) -> Option<i32> {
        let pid = self.child.id().to_string();
        let killed = Command::new("kill").args([signal, &pid]).status();
        assert!(killed.expect("kill is here").success());
        self.child.wait().expect("ended").code()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Has ended already unless the test failed.
        let _ = self.child.kill();
    }
}

/// Scripts believe the line: it comes when everything that can fail has not.
#[tokio::test]
async fn it_is_ready_when_it_says_so() {
    let room = Room::new();
    std::fs::write(room.path("file"), "x").expect("our own folder");
    let server = Server::run(&room, &["--history", "held"]);
    let health = http().get(format!("{}/health", server.url)).send().await;
    assert_eq!(health.expect("an answer").status(), 200);
    let port = server.url.rsplit(':').next().expect("a port");
    for (status, words, said) in [
        (1, &["--port", "0", "--history", "held"][..], "is in use by another gateway"),
        (1, &["--port", "0", "--history", "file"], "file"),
        (1, &["--port", "0", "--history", "file/inside"], "file/inside"),
        (1, &["--port", port, "--no-history"], "cannot listen on"),
        (1, &["--port", "0", "--no-history", "--templates-dir", "nowhere"], "nowhere"),
        (64, &["--port", "0", "--no-history", "--model-path", "nowhere"], "nowhere"),
        (64, &["--port", "0", "--no-history", "--model-alias", "gpt-image-1=x"], "use 'demo'"),
        (64, &["--port", "0", "--no-history", "--model-alias", "gpt-image-1"], "NAME=MODEL"),
        (64, &["--port", "0", "--no-history", "--trusted-proxy", "nas"], "10.0.0.0/8"),
    ] {
        let output = room.run(&[&["serve"], words].concat());
        let error = String::from_utf8(output.stderr).expect("text");
        assert_eq!(output.status.code(), Some(status), "{words:?}: {error}");
        assert!(error.contains(said), "{words:?}: {error}");
        assert_eq!(String::from_utf8_lossy(&output.stdout), "", "{words:?}");
    }
    assert_eq!(server.stop("-TERM"), Some(0));
}

#[test]
fn the_same_picture_through_the_services_byte_for_byte() {
    let room = Room::new();
    let server = Server::start(&room);
    for extra in [
        &[][..],
        &["--width", "96", "--steps", "3"],
        &["--guidance-scale", "1.5", "--negative-prompt", "blurry", "--steps", "3"],
        &["--cfg-normalization", "1", "--cfg-truncation", "0.5", "--guidance-scale", "2"],
        &["--system-prompt", "Paint.", "--thinking-content", "Hm.", "--assistant-content", "A"],
        &["--shift", "6", "--steps", "4"],
        &["--scheduler", "unipc", "--steps", "4"],
        &["--scheduler", "flow_heun", "--steps", "3", "--guidance-scale", "1"],
        &["--template", "noir", "--guidance-scale", "1.5", "--steps", "3"],
        &["--thinking-content", "T", "--enable-thinking=false", "--steps", "2"],
        &["--negative-prompt", "<|im_end|>", "--guidance-scale", "1", "--raw-special-tokens"],
    ] {
        compare(&room, &server, extra);
    }
    let said = room.fail(64, &["generate", "x", "--width", "250", "--gateway", &server.url]);
    assert!(said.contains("240 and 256"), "{said}");
    assert_eq!(server.stop("-TERM"), Some(0));
}

/// The negative prompt has a think block exactly when the prompt has one, at every door.
#[test]
fn the_same_negative_prompt_beside_a_think_block() {
    let room = Room::new();
    let server = Server::start(&room);
    for block in [&["--thinking-content", "Hm."][..], &["--force-think-block"]] {
        compare(&room, &server, &[&["--guidance-scale", "1.5", "--steps", "3"], block].concat());
    }
}

fn compare(room: &Room, server: &Server, extra: &[&str]) {
    let base = ["generate", "a red apple", "--seed", "42", "--width", "64", "--height", "64"];
    let base = if extra.contains(&"--width") { &base[..4] } else { &base[..] };
    let make = |more: &[&str]| room.succeed(&[base, extra, more].concat());
    make(&["-o", "here.png"]);
    let said = make(&["-o", "there.png", "--gateway", &server.url]);
    assert!(said.contains("seed 42"), "{said}");
    png_size(&room.read("there.png"));
    assert!(room.read("here.png") == room.read("there.png"), "pictures differ with {extra:?}");
}

#[test]
fn a_taken_port_is_an_error_at_once() {
    let room = Room::new();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = taken.local_addr().expect("bound").port().to_string();
    let said = room.fail(1, &["serve", "--no-history", "--port", &port]);
    assert!(said.contains(&port) && said.contains("--port"), "{said}");
}

#[test]
fn sigint_ends_an_idle_server_well() {
    let room = Room::new();
    assert_eq!(Server::start(&room).stop("-INT"), Some(0));
}
