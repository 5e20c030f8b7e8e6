//! `PROGRAM health`: what containers and clusters decide by.

use std::{
    process::{Command, Output},
    time::{Duration, Instant},
};

use llm_dit_testkit::{
    fakes::FakeHeylook,
    process::{Process, program},
};

/// Nothing listens there.
const NOWHERE: &str = "http://127.0.0.1:1";

fn health(name: &str, args: &[&str]) -> Output {
    Command::new(program(name)).arg("health").args(args).output().expect("starts")
}

/// Exit status and what was printed.
fn said(output: &Output) -> (Option<i32>, String) {
    let text = [&output.stdout[..], &output.stderr].concat();
    (output.status.code(), String::from_utf8(text).expect("text"))
}

#[test]
fn a_service_is_asked_over_grpc() {
    let encoder = Process::start("encoder-service", &[]);
    let port = encoder.port().to_owned();
    assert_eq!(said(&health("encoder-service", &["--port", &port])).0, Some(0));
    // As in a container, where it listens on all addresses.
    let everywhere = ["--host", "0.0.0.0", "--port", &port, "--live"];
    assert_eq!(said(&health("encoder-service", &everywhere)).0, Some(0));
    encoder.kill();
    let (status, text) = said(&health("encoder-service", &["--port", &port]));
    assert!(status == Some(1) && text.contains("cannot be reached"), "{status:?} {text}");
}

/// An answer that the service only gives once it knows what the server behind it says.
fn becomes(port: &str, status: i32) {
    let since = Instant::now();
    while said(&health("encoder-service", &["--port", port])).0 != Some(status) {
        assert!(since.elapsed() < Duration::from_secs(60), "never {status}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_encoder_elsewhere_is_ready_when_its_server_is() {
    let away = Process::start("encoder-service", &["--api-url", NOWHERE, "--api-model", "any"]);
    becomes(away.port(), 1);
    assert_eq!(said(&health("encoder-service", &["--port", away.port(), "--live"])).0, Some(0));

    let fake = FakeHeylook::replaying(&[]).await;
    let there = ["--api-url", &fake.url, "--api-model", "Qwen3-4B-mlx"];
    let there = Process::start("encoder-service", &there);
    becomes(there.port(), 0);
}

#[test]
fn a_gateway_without_services_is_alive_and_ready_but_not_healthy() {
    let gateway = Process::start("gateway", &["--diffusion", NOWHERE]);
    for name in ["gateway", "llm-dit"] {
        let ask =
            |more: &[&str]| said(&health(name, &[&["--port", gateway.port()], more].concat()));
        assert_eq!(ask(&["--live"]).0, Some(0));
        assert_eq!(ask(&["--ready"]).0, Some(0));
        let (status, text) = ask(&[]);
        assert!(status == Some(1) && text.contains("503"), "{status:?} {text}");
    }
}

#[test]
fn the_servers_own_certificate_is_shown_where_one_is_asked_for() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = |name: &str| folder.path().join(name).to_str().expect("text").to_owned();
    let made = Command::new(program("llm-dit"))
        .args(["certificates", "gateway=gateway.test", "gpu=gpu.test", "--output"])
        .arg(folder.path())
        .output()
        .expect("starts");
    assert!(made.status.success(), "{made:?}");
    for (name, ready) in [("gateway", "--ready"), ("diffusion-service", "--live")] {
        let (certificate, key) = (file("gateway.pem"), file("gateway-key.pem"));
        let authority = file("ca.pem");
        let mutual = ["--tls-cert", &certificate, "--tls-key", &key, "--tls-client-ca", &authority];
        let server = Process::start(name, &mutual);
        let own = [&["--port", server.port(), ready], &mutual[..]].concat();
        let (status, text) = said(&health(name, &own));
        assert_eq!(status, Some(0), "{name}: {text}");
        // Without a certificate, and without encryption.
        let url = format!("https://localhost:{}", server.port());
        let stranger = ["--url", &url, "--tls-ca", &authority, ready];
        assert_eq!(said(&health(name, &stranger)).0, Some(1), "{name}");
        assert_eq!(said(&health(name, &["--port", server.port(), ready])).0, Some(1), "{name}");
    }
}

#[cfg(unix)]
#[test]
fn the_command_is_each_service_under_its_name() {
    let folder = tempfile::tempdir().expect("a folder");
    for name in ["encoder-service", "diffusion-service", "gateway"] {
        let link = folder.path().join(name);
        std::os::unix::fs::symlink(program("llm-dit"), &link).expect("linked");
        let asked = |file: &std::path::Path| {
            Command::new(file).arg("--help").output().expect("starts").stdout
        };
        let help = asked(&link);
        assert!(!help.is_empty() && help == asked(&program(name)), "{name}");
    }
}
