//! Everything that can be wrong with a request or behind the gateway: a status, a message, no panic.

use base64::{Engine as _, engine::general_purpose::STANDARD};

use crate::support::{Gateway, Stack, WIDTH, options, problem};
use diffusion_service::ServiceLimits;
use llm_dit_proto::v1::{EmbeddingHeader, encode_response::Frame};
use llm_dit_proto::{DType, Tensor};
use llm_dit_testkit::{
    fakes::{
        FAILING_SEED, FakeGenerator, LARGE_SEED, OVERFLOWING_SEED, PANICKING_SEED, ScriptedEncoder,
    },
    http,
    servers::{Server, fake_diffusion},
    wire::tensor,
};
use serde_json::{Value, json};

/// Nothing listens here: port 9 is "discard" and below what a test gets.
const NOBODY: &str = "http://127.0.0.1:9";

fn png() -> String {
    let mut file = std::io::Cursor::new(Vec::new());
    let white = image::GrayImage::from_pixel(16, 16, image::Luma([255]));
    white.write_to(&mut file, image::ImageFormat::Png).expect("encodes");
    STANDARD.encode(file.into_inner())
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_requests_are_told_how_to_mend_themselves() {
    let mut stack = Stack::start().await;
    for (body, status, words) in [
        (json!({}), 400, "missing field `prompt`"),
        (json!({"prompt": ""}), 400, "the prompt is empty"),
        (json!({"prompt": " \n"}), 400, "the prompt is empty"),
        (json!({"prompt": 7}), 400, "prompt: invalid type"),
        (json!({"prompt": "x", "width": 250}), 400, "the nearest are 240 and 256"),
        (json!({"prompt": "x", "width": 0}), 400, "width 0 is out of range; use 64 to 1024"),
        (json!({"prompt": "x", "width": 100_000}), 400, "width 100000 is out of range"),
        (json!({"prompt": "x", "height": 1024, "width": 1024}), 400, "pixels"),
        (json!({"prompt": "x", "width": -1}), 400, "width: invalid value"),
        (json!({"prompt": "x", "width": "256"}), 400, "width: invalid type"),
        (json!({"prompt": "x", "steps": 0}), 400, "steps 0 is out of range"),
        (
            json!({"prompt": "x", "seed": -1}),
            400,
            "seed: invalid value: number -1; use a whole number from 0 to 18446744073709551615, or leave it out for a random one",
        ),
        (json!({"prompt": "x", "guidance_scale": -1}), 400, "guidance_scale"),
        (json!({"prompt": "x", "cfg_truncation": 3}), 400, "cfg_truncation"),
        (json!({"prompt": "x", "shift": 0}), 400, "shift"),
        (json!({"prompt": "x", "scheduler": "uni_pc"}), 400, "did you mean 'unipc'?"),
        (json!({"prompt": "x", "scheduler": "y"}), 400, "known are flow_euler, flow_heun"),
        (json!({"prompt": "x", "scheduler": 1}), 400, "scheduler: invalid type"),
        (
            json!({"prompt": "x", "steps": 3, "num_inference_steps": 3}),
            400,
            "are the same parameter",
        ),
        (json!({"prompt": "x", "stepz": 3}), 400, "'stepz'; did you mean 'steps'?"),
        (json!({"prompt": "x", "qqq": 3}), 400, "unknown field 'qqq'; known are prompt"),
        (json!(["x"]), 400, "send a JSON object"),
        (json!("x"), 400, "invalid type: string"),
        (json!({"prompt": "x".repeat(70_000)}), 413, "too long"),
        (json!({"prompt": "x", "negative_prompt": "x".repeat(70_000)}), 413, "negative_prompt"),
        (json!({"prompt": "x", "system_prompt": "x".repeat(70_000)}), 413, "system_prompt"),
        (json!({"prompt": "x", "hidden_layer": 99}), 400, "hidden_layer"),
        (json!({"prompt": "x", "max_tokens": 0}), 400, "max_tokens 0"),
        (json!({"prompt": "x", "truncate": "middle"}), 400, "use prompt or end"),
        (json!({"prompt": "x", "encoder": "locla"}), 400, "did you mean 'local'?"),
        (json!({"prompt": "x", "strength": 0.5}), 400, "strength needs an init image"),
        (json!({"prompt": "x", "only_masked": 8}), 400, "only_masked needs a mask"),
        (json!({"prompt": "x", "mask_blur": 65}), 400, "mask_blur"),
        (json!({"prompt": "x", "mask": "R0lGODlh"}), 400, "mask: the image is not a PNG"),
        (json!({"prompt": "x", "mask": png()}), 400, "mask needs an init image"),
        (json!({"prompt": "x", "image": "http://elsewhere/x.png"}), 400, "not fetched"),
        (json!({"prompt": "x", "image": "****"}), 400, "not base64"),
        (json!({"prompt": "x", "image": "aGVsbG8="}), 400, "not a PNG, JPEG or WebP"),
        (json!({"prompt": "x", "output_format": "gif"}), 400, "png, jpeg or webp"),
        (json!({"prompt": "x", "output_compression": 101}), 400, "use 0 to 100"),
        (json!({"prompt": "x", "max_tokens": 1505}), 400, "use 1 to 1504"),
        (json!({"prompt": "x", "loras": [{"nam": "a"}]}), 400, "loras[0]"),
        (json!({"prompt": "x", "loras": [{"name": "a"}, {"name": "a"}]}), 400, "named twice"),
        (
            json!({"prompt": "x", "loras": [{"name": "a", "scale": 3e38}]}),
            400,
            "from -1000 to 1000",
        ),
        (
            json!({"prompt": "x", "loras": [{"name": "n".repeat(70_000)}]}),
            400,
            "the maximum is 512",
        ),
        (json!({"prompt": "x", "model": "other"}), 404, "omit it, or use 'fake-dit'"),
        (json!({"prompt": "x", "system_prompt": "word ".repeat(1000)}), 400, "tokens"),
    ] {
        let shown = body.to_string().chars().take(80).collect::<String>();
        let detail = problem(stack.gateway.post(&body).await, status).await;
        assert!(detail.contains(words), "{shown}: {detail}");
    }
    assert!(stack.jobs.try_recv().is_err(), "nothing was encoded");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_init_image_that_is_cut_off_is_refused() {
    let stack = Stack::start().await;
    let picture = image::RgbImage::from_fn(96, 96, |x, y| image::Rgb([x as u8, y as u8, 90]));
    for format in [image::ImageFormat::Png, image::ImageFormat::Jpeg, image::ImageFormat::WebP] {
        let mut file = std::io::Cursor::new(Vec::new());
        picture.write_to(&mut file, format).expect("encodes");
        let file = file.into_inner();
        for part in [file.len() - 1, file.len() * 3 / 4] {
            let body = json!({"prompt": "x", "image": STANDARD.encode(&file[..part])});
            let said = problem(stack.gateway.post(&body).await, 400).await;
            assert!(said.contains("cut off"), "{format:?}: {said}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_refusal_is_a_problem_also_those_of_the_framework() {
    let stack = Stack::start().await;
    let url = |path: &str| format!("{}{path}", stack.gateway.url);
    for (method, path, status) in [
        ("GET", "/api/jobs/%ff", 400),
        ("DELETE", "/api/jobs/%ff", 400),
        ("GET", "/api/jobs/%ff/events", 400),
        ("GET", "/api/jobs/%ff/image", 400),
        ("GET", "/api/history/%ff", 400),
        ("DELETE", "/api/history/%ff", 400),
        ("GET", "/api/history/%ff/image", 400),
        ("GET", "/api/history?limit=x", 400),
        ("GET", "/api/nothing", 404),
        ("PUT", "/api/generate", 405),
        ("GET", "/v1/models/%ff", 400),
        ("GET", "/v1/models/other", 404),
        ("GET", "/v1/nothing", 404),
        ("PUT", "/v1/models", 405),
        ("POST", "/v1/images/generations", 415),
    ] {
        let method: reqwest::Method = method.parse().expect("a method");
        let response = http().request(method, url(path)).send().await.expect("an answer");
        assert_eq!(response.headers().contains_key("allow"), status == 405, "{path}");
        assert_eq!(response.status(), status, "{path}");
        assert_eq!(response.headers()["content-type"], "application/problem+json", "{path}");
        let body: Value = response.json().await.expect("JSON");
        assert!(body["detail"].as_str().is_some_and(|text| !text.is_empty()), "{path}: {body}");
        let message = body["error"]["message"].as_str();
        assert_eq!(message, path.starts_with("/v1/").then(|| body["detail"].as_str()).flatten());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn problems_repeat_little_of_what_a_client_wrote() {
    let stack = Stack::start().await;
    let long = "n".repeat(60_000);
    let bodies = [
        json!({"prompt": "x", "model": long}),
        json!({"prompt": "x", "encoder": long}),
        json!({"prompt": "x", "scheduler": long}),
        json!({"prompt": "x", "template": long}),
        json!({"prompt": "x", "output_format": long}),
        json!({"prompt": "x", "image": long}),
        json!({"prompt": "x", "loras": [{"name": long}]}),
        json!({"prompt": "x", "loras": [{"name": "a", long.clone(): 1}]}),
        json!({"prompt": "x", "seed": long}),
        json!({"prompt": "x", long.clone(): 1}),
        json!({long.clone(): {long.clone(): 1}}),
    ];
    for path in ["/api/generate", "/api/jobs", "/v1/images/generations"] {
        for body in &bodies {
            let response = stack.gateway.post_to(path, body).await;
            assert!(response.status().is_client_error(), "{path}: {}", response.status());
            let text = response.text().await.expect("text");
            let repeated = text.split(|c| c != 'n').map(str::len).max();
            assert!(repeated < Some(500), "{path}: {}", &text[..1000]);
        }
    }
    let response = stack.gateway.get(&format!("/{}", "n".repeat(30_000))).await;
    assert!(problem(response, 404).await.len() < 500);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_json_is_refused() {
    let stack = Stack::start().await;
    let url = format!("{}/api/generate", stack.gateway.url);
    let send = async |kind: Option<&str>, body: Vec<u8>| {
        let mut request = http().post(&url).body(body);
        if let Some(kind) = kind {
            request = request.header("content-type", kind);
        }
        request.send().await.expect("the gateway answers")
    };
    let whole = br#"{"prompt": "x"}"#;
    for kind in [None, Some("text/plain"), Some("application/x-www-form-urlencoded")] {
        let detail = problem(send(kind, whole.to_vec()).await, 415).await;
        assert!(detail.contains("application/json"), "{detail}");
    }
    let json = Some("application/json; charset=utf-8");
    assert_eq!(send(json, whole.to_vec()).await.status(), 200);
    let broken: [&[u8]; 5] =
        [b"", b"{\"prompt\": ", b"{\"prompt\": \"x\"} and more", b"\xff\xfe", b"nul"];
    for broken in broken {
        let detail = problem(send(json, broken.to_vec()).await, 400).await;
        assert!(detail.contains("line 1"), "{detail}");
    }
    let twice = br#"{"prompt": "x", "steps": 2, "num_inference_steps": 3}"#;
    let detail = problem(send(json, twice.to_vec()).await, 400).await;
    assert!(detail.contains("are the same parameter"), "{detail}");
    // Nesting that would overflow a naive parser's stack.
    problem(send(json, vec![b'['; 500_000]).await, 400).await;
    let encode = format!("{}/api/encode", stack.gateway.url);
    for (url, megabytes, drained, limit) in [
        (&encode, 2, true, "1024 KiB"),
        (&encode, 10, true, "1024 KiB"),
        (&encode, 40, false, "1024 KiB"),
        (&url, 24, true, "24576 KiB"),
        (&url, 60, false, "24576 KiB"),
    ] {
        let mut body = br#"{"prompt": ""#.to_vec();
        body.resize((megabytes << 20) + 1, b'x');
        let response = http().post(url).header("content-type", "application/json");
        match response.body(body).send().await {
            Ok(response) => {
                let detail = problem(response, 413).await;
                assert!(detail.contains(limit), "{detail}");
            }
            // Far beyond the limit the connection may close before the client has sent all.
            Err(error) => assert!(!drained, "{megabytes} MiB: {error}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_addresses_and_methods_are_problems_too() {
    let stack = Stack::start().await;
    let detail = problem(stack.gateway.get("/api/generat").await, 404).await;
    assert!(detail.contains("/api/generat") && detail.contains("/health"), "{detail}");
    let response = stack.gateway.get("/api/generate").await;
    assert_eq!(response.headers()["allow"], "POST");
    assert!(problem(response, 405).await.contains("GET"));
    let index = stack.gateway.get("/").await;
    assert_eq!(index.status(), 200);
    assert_eq!(index.headers()["content-type"], "text/html; charset=utf-8");
    let policy = index.headers()["content-security-policy"].to_str().expect("text");
    assert!(policy.starts_with("default-src 'self';") && !policy.contains("unsafe"), "{policy}");
    let tag = index.headers()["etag"].clone();
    let again = http().get(&stack.gateway.url).header("if-none-match", tag);
    assert_eq!(again.send().await.expect("an answer").status(), 304);
    for (path, kind) in [
        ("/app.css", "text/css; charset=utf-8"),
        ("/app.js", "text/javascript; charset=utf-8"),
        ("/icon.svg", "image/svg+xml"),
    ] {
        let file = stack.gateway.get(path).await;
        assert_eq!(
            (file.status().as_u16(), &file.headers()["content-type"]),
            (200, &kind.parse().expect("a header"))
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_is_down_is_named() {
    let stack = Stack::start().await;
    let body = json!({"prompt": "x"});
    let gateway = Gateway::start(Some(&stack.encoder.url), NOBODY).await;
    let detail = problem(gateway.post(&body).await, 503).await;
    assert!(detail.contains("diffusion service at http://127.0.0.1:9"), "{detail}");
    let gateway = Gateway::start(Some(NOBODY), &stack.diffusion.url).await;
    let detail = problem(gateway.post(&body).await, 503).await;
    assert!(detail.contains("encoder at http://127.0.0.1:9"), "{detail}");
}

#[tokio::test(flavor = "multi_thread")]
async fn failures_inside_stay_inside() {
    let stack = Stack::start().await;
    for seed in [FAILING_SEED, PANICKING_SEED] {
        let detail = problem(stack.gateway.post(&json!({"prompt": "x", "seed": seed})).await, 500);
        let detail = detail.await;
        assert!(!detail.contains("secret") && !detail.contains("asked for it"), "{detail}");
        assert!(detail.contains("X-Request-Id"), "{detail}");
    }
    let detail =
        problem(stack.gateway.post(&json!({"prompt": "x", "seed": LARGE_SEED})).await, 507);
    assert!(detail.await.contains("request a smaller one"));
    assert_eq!(stack.gateway.post(&json!({"prompt": "x"})).await.status(), 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_engine_that_only_fails_is_left_alone_until_it_works() {
    let stack = Stack::start().await;
    // Too large is no illness.
    for _ in 0..4 {
        problem(stack.gateway.post(&json!({"prompt": "x", "seed": LARGE_SEED})).await, 507).await;
    }
    assert_eq!(stack.gateway.get("/health").await.status(), 200);
    for _ in 0..3 {
        problem(stack.gateway.post(&json!({"prompt": "x", "seed": FAILING_SEED})).await, 500).await;
    }
    // Its health is told as soon as the answer is.
    let ill: Value = loop {
        let health = stack.gateway.get("/health").await;
        if health.status() == 503 {
            break health.json().await.expect("JSON");
        }
    };
    assert_eq!(ill["diffusion"][0]["status"], "not_serving");
    // It is tried by itself.
    while stack.gateway.get("/health").await.status() != 200 {}
    assert_eq!(stack.gateway.post(&json!({"prompt": "x"})).await.status(), 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_encoder_that_does_not_fit_is_not_the_callers_fault() {
    let stack = Stack::with(FakeGenerator::free(WIDTH), ServiceLimits::default(), WIDTH + 1).await;
    let detail = problem(stack.gateway.post(&json!({"prompt": "x"})).await, 501).await;
    assert!(detail.contains("25 wide") && detail.contains("cap_feat_dim 24"), "{detail}");
}

/// What the client sees is the encoder's failure, not what the diffusion service makes of it.
#[tokio::test(flavor = "multi_thread")]
async fn an_encoder_that_breaks_off_is_the_one_to_blame() {
    let whole = tensor(&[3, WIDTH], 1);
    let header = |index: u32| {
        Frame::Header(EmbeddingHeader { index, tensor: Some(whole.header()), ..Default::default() })
    };
    let data = |bytes: usize| Frame::Data(whole.bytes().slice(..bytes));
    let all = whole.bytes().len();
    for (frames, guidance, words) in [
        (vec![], 0, "ended its answer early"),
        (vec![header(0)], 0, "ended its answer early"),
        (vec![header(0), data(7)], 0, "ended its answer early"),
        (vec![header(0), data(all)], 1, "ended its answer early"),
        (vec![header(0), data(all), header(1), data(7)], 1, "ended its answer early"),
        (vec![data(7)], 0, "sent more bytes"),
        (vec![header(0), data(all - 1), data(2)], 0, "carries more bytes"),
        (vec![header(0), data(all), data(2)], 0, "sent more than it was asked for"),
        (vec![header(0), data(0)], 0, "a chunk is empty"),
        (vec![header(0), header(1)], 1, "before the last one was complete"),
        (vec![header(1)], 0, "out of order"),
        (vec![Frame::Header(EmbeddingHeader::default())], 0, "without a shape"),
    ] {
        let encoder =
            Server::scripted_encoder(ScriptedEncoder { frames, ..Default::default() }).await;
        let (diffusion, _control) =
            fake_diffusion(FakeGenerator::free(WIDTH), ServiceLimits::default(), None);
        let diffusion = Server::diffusion(diffusion).await;
        let gateway = Gateway::start(Some(&encoder.url), &diffusion.url).await;
        let response = gateway.post(&json!({"prompt": "x", "guidance_scale": guidance})).await;
        let detail = problem(response, 502).await;
        assert!(detail.contains(words) && detail.contains("the encoder at"), "{detail}");
    }
}

/// What an encoder did wrong is neither remembered nor the client's fault, and another one is asked.
#[tokio::test(flavor = "multi_thread")]
async fn garbage_of_an_encoder_is_asked_for_elsewhere_and_never_remembered() {
    let frames = |tensor: &Tensor| {
        let header = EmbeddingHeader { tensor: Some(tensor.header()), ..Default::default() };
        vec![Frame::Header(header), Frame::Data(tensor.bytes().clone())]
    };
    let values = |value: f32, width: usize| {
        Tensor::from_f32(&vec![value; 3 * width], vec![3, width], DType::F32).expect("a shape")
    };
    let stack = Stack::start().await;
    for (name, tensor, status) in [
        ("NaN", values(f32::NAN, WIDTH), 502),
        ("infinity", values(f32::INFINITY, WIDTH), 502),
        ("another width", values(0.5, WIDTH + 1), 501),
    ] {
        let script = ScriptedEncoder { frames: frames(&tensor), ..Default::default() };
        let encoder = Server::scripted_encoder(script).await;
        // Alone, it is to blame.
        let gateway = Gateway::start(Some(&encoder.url), &stack.diffusion.url).await;
        for _ in 0..2 {
            let detail = problem(gateway.post(&json!({"prompt": "x"})).await, status).await;
            assert!(detail.contains("the encoder at"), "{name}: {detail}");
        }
        assert_eq!(gateway.json("/health").await["embedding_cache"]["entries"], 0, "{name}");
        // Beside another one, nobody hears of it.
        let both = options(&[&encoder.url, &stack.encoder.url], &[&stack.diffusion.url]);
        let gateway = Gateway::with(both).await;
        for _ in 0..3 {
            assert_eq!(gateway.post(&json!({"prompt": "x"})).await.status(), 200, "{name}");
        }
    }
}

/// Three images that come to NaN are no sign of a broken engine, and say what to change.
#[tokio::test(flavor = "multi_thread")]
async fn numbers_that_overflow_are_the_requests_own() {
    let stack = Stack::start().await;
    for _ in 0..4 {
        let body = json!({"prompt": "x", "seed": OVERFLOWING_SEED});
        let detail = problem(stack.gateway.post(&body).await, 422).await;
        assert!(detail.contains("smaller LoRA scale"), "{detail}");
        assert_eq!(stack.gateway.get("/health").await.status(), 200);
        assert_eq!(stack.gateway.post(&json!({"prompt": "x"})).await.status(), 200);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn health_tells_which_service_is_missing() {
    let stack = Stack::start().await;
    let health = async |gateway: &Gateway, status: u16| -> Value {
        let response = gateway.get("/health").await;
        assert_eq!(response.status().as_u16(), status);
        response.json().await.expect("JSON")
    };
    let well = health(&stack.gateway, 200).await;
    assert_eq!(well["status"], "ok");
    assert_eq!(well["encoders"][0]["name"], "local");
    assert_eq!(well["encoders"][0]["backends"][0]["url"], stack.encoder.url);
    assert_eq!(well["encoders"][0]["backends"][0]["status"], "serving");
    assert_eq!(well["diffusion"][0]["status"], "serving");
    assert_eq!(well["requests"], json!({"running": 0, "limit": 64}));

    // Services that run, but not the ones that are meant.
    let crossed = Gateway::start(Some(&stack.diffusion.url), &stack.encoder.url).await;
    let crossed = health(&crossed, 503).await;
    assert_eq!(crossed["encoders"][0]["backends"][0]["status"], "not_serving");

    let Stack { encoder, diffusion, gateway, .. } = stack;
    encoder.stop().await;
    let ill = health(&gateway, 503).await;
    assert_eq!(ill["status"], "unavailable");
    assert_eq!(ill["encoders"][0]["backends"][0]["status"], "unreachable");
    assert_eq!(ill["diffusion"][0]["status"], "serving");
    diffusion.stop().await;
    assert_eq!(health(&gateway, 503).await["diffusion"][0]["status"], "unreachable");
}
