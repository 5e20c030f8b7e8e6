//! `llm-dit generate --gateway` against a gateway that tells what it was told to.

use std::{
    io::{Read as _, Write as _},
    net::TcpListener,
    thread::{self, JoinHandle},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};

use crate::support::Room;

/// Answers one request with these bytes and gives back what was asked.
struct Gateway {
    url: String,
    asked: JoinHandle<String>,
}

impl Gateway {
    fn answering(answer: Vec<Vec<u8>>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let url = format!("http://{}", listener.local_addr().expect("bound"));
        let asked = thread::spawn(move || {
            let (mut stream, _) = listener.accept().expect("a client");
            let mut asked = Vec::new();
            // A small request; its JSON ends with the first brace that closes.
            while asked.last() != Some(&b'}') {
                let mut buffer = [0; 4096];
                let count = stream.read(&mut buffer).expect("a request");
                assert!(count > 0, "cut short: {}", String::from_utf8_lossy(&asked));
                asked.extend_from_slice(&buffer[..count]);
            }
            for part in answer {
                stream.write_all(&part).expect("the client reads");
                stream.flush().expect("flushed");
            }
            String::from_utf8(asked).expect("text")
        });
        Self { url, asked }
    }

    /// Answers with events, cut into small pieces.
    fn telling(events: &str) -> Self {
        let mut answer = vec![HEAD.as_bytes().to_vec()];
        answer.extend(events.as_bytes().chunks(1000).map(<[u8]>::to_vec));
        Self::answering(answer)
    }
}

const HEAD: &str =
    "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n";

fn png() -> Vec<u8> {
    let mut file = std::io::Cursor::new(Vec::new());
    let picture = image::RgbImage::from_fn(64, 64, |x, y| image::Rgb([x as u8, y as u8, 9]));
    picture.write_to(&mut file, image::ImageFormat::Png).expect("encodes");
    file.into_inner()
}

fn progress(stage: &str, position: &str, step: u32) -> String {
    format!(
        "event: progress\ndata: {{\"stage\":\"{stage}\",\"queue_position\":{position},\"step\":{step},\"steps\":3,\"seconds_left\":null}}\n\n"
    )
}

#[test]
fn a_gateway_s_progress_is_shown_and_its_picture_written() {
    let result = format!(
        "event: result\ndata: {{\"image\":\"{}\",\"media_type\":\"image/png\",\"parameters\":{{\"seed\":77}},\"truncated_tokens\":5}}\n\n",
        STANDARD.encode(png())
    );
    let events = [
        progress("encoding", "null", 0),
        ": a comment\n\n".to_owned(),
        progress("queued", "2", 0),
        progress("queued", "1", 0),
        progress("queued", "1", 0),
        progress("denoising", "null", 1),
        "event: preview\ndata: {\"step\":1,\"media_type\":\"image/jpeg\",\"image\":\"AA==\"}\n\n"
            .into(),
        "event: of_the_future\ndata: whatever\n\n".into(),
        progress("denoising", "null", 2),
        progress("decoding", "null", 3),
        result,
    ]
    .concat();
    let gateway = Gateway::telling(&events);
    let room = Room::new();
    let said = room.succeed(&[
        "generate",
        "a fox",
        "--steps",
        "3",
        "--seed",
        "77",
        "--gateway",
        &gateway.url,
        "-o",
        "fox.png",
    ]);
    let told: Vec<&str> =
        said.lines().map(|line| line.split(" 0.").next().unwrap_or(line)).collect();
    assert_eq!(
        told[1..8],
        [
            "encoding the prompt",
            "waiting behind 2 images",
            "waiting behind 1 image",
            "step 1/3",
            "step 2/3",
            "step 3/3",
            "decoding"
        ],
        "{said}"
    );
    assert!(said.contains("seed 77") && said.contains("5 tokens too long"), "{said}");
    assert!(image::load_from_memory(&room.read("fox.png")).is_ok());
    let asked = gateway.asked.join().expect("asked").to_lowercase();
    assert!(asked.contains("accept: text/event-stream"), "{asked}");
    assert!(asked.ends_with(r#"{"prompt":"a fox","steps":3,"seed":77}"#), "{asked}");
}

#[test]
fn what_ends_without_a_picture_is_an_error() {
    for (events, expected) in [
        (
            "event: error\ndata: {\"title\":\"x\",\"status\":503,\"detail\":\"the encoder sleeps\"}\n\n"
                .to_owned(),
            "answered 503: the encoder sleeps",
        ),
        (progress("queued", "1", 0), "ended before the image arrived"),
        ("event: result\ndata: {}\n\n".to_owned(), "invalid event"),
        (
            "event: result\ndata: {\"image\":\"*\",\"parameters\":{\"seed\":1}}\n\n".to_owned(),
            "invalid base64",
        ),
    ] {
        let gateway = Gateway::telling(&events);
        let said = Room::new().fail(1, &["generate", "a fox", "--gateway", &gateway.url]);
        assert!(said.contains(expected), "{said}");
    }
}

#[test]
fn a_gateway_without_events_does_as_well() {
    let png = png();
    let head = format!(
        "HTTP/1.1 200 OK\r\ncontent-type: image/png\r\nx-seed: 12\r\ncontent-length: {}\r\n\r\n",
        png.len()
    );
    let gateway = Gateway::answering(vec![head.into_bytes(), png]);
    let room = Room::new();
    let said = room.succeed(&["generate", "a fox", "--gateway", &gateway.url, "-o", "fox.png"]);
    assert!(said.contains("seed 12"), "{said}");
}

#[test]
fn a_gateway_is_asked_for_a_model_and_for_loras() {
    let png = png();
    let head = format!(
        "HTTP/1.1 200 OK\r\ncontent-type: image/png\r\nx-seed: 1\r\ncontent-length: {}\r\n\r\n",
        png.len()
    );
    let gateway = Gateway::answering(vec![head.into_bytes(), png]);
    let mut args = vec!["generate", "a fox", "--seed", "1", "--gateway", &gateway.url];
    args.extend(["--model", "demo", "--lora", "styles/ink.safetensors:0.5"]);
    args.extend(["--lora-trigger", "ink wash", "--lora", "clay.safetensors"]);
    Room::new().succeed(&args);
    let asked = gateway.asked.join().expect("asked");
    let body = asked.split("\r\n\r\n").last().expect("a body");
    let body: serde_json::Value = serde_json::from_str(body).expect("JSON");
    assert_eq!(
        body,
        serde_json::json!({
            "prompt": "a fox", "seed": 1, "model": "demo",
            "loras": [
                {"name": "styles/ink.safetensors", "scale": 0.5, "trigger_words": "ink wash"},
                {"name": "clay.safetensors", "scale": 1.0},
            ],
        })
    );
}

#[test]
fn a_gateway_gets_the_init_image_and_what_is_asked_of_the_encoder() {
    let png = png();
    let head = format!(
        "HTTP/1.1 200 OK\r\ncontent-type: image/png\r\nx-seed: 1\r\ncontent-length: {}\r\n\r\n",
        png.len()
    );
    let gateway = Gateway::answering(vec![head.into_bytes(), png.clone()]);
    let room = Room::new();
    std::fs::write(room.path("s.png"), &png).expect("ours");
    // Without a scheme it is http://.
    let host = gateway.url.strip_prefix("http://").expect("ours");
    let mut args = vec!["generate", "a fox", "--seed", "1", "--gateway", host, "-o", "fox.png"];
    args.extend(["--image", "s.png", "--strength", "0.5", "--hidden-layer", "-3"]);
    args.extend(["--max-tokens", "100", "--truncate", "end"]);
    room.succeed(&args);
    let asked = gateway.asked.join().expect("asked");
    let body = asked.split("\r\n\r\n").last().expect("a body");
    let body: serde_json::Value = serde_json::from_str(body).expect("JSON");
    assert_eq!(
        body,
        serde_json::json!({
            "prompt": "a fox", "seed": 1, "image": STANDARD.encode(&png), "strength": 0.5,
            "hidden_layer": -3, "max_tokens": 100, "truncate": "end",
        })
    );
    let recipe = llm_dit_recipe::read(room.read("fox.png").into()).expect("a PNG");
    let recipe = recipe.expect("a recipe");
    assert_eq!(recipe.settings.image.as_deref(), Some("s.png"));
    assert!(recipe.sha256.contains_key("image"));
}

#[test]
fn a_model_that_is_not_there_is_refused_with_the_one_that_is() {
    let said = Room::new().fail(64, &["generate", "a fox", "--model", "flux"]);
    assert!(said.contains("unknown model 'flux'; omit it, or use 'demo'"), "{said}");
}
