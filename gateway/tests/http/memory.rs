//! What clients and services can make the gateway hold.

use std::time::Duration;

use diffusion_service::ServiceLimits;
use futures::stream;
use gateway::{GatewayOptions, JobLimits, KeepOptions};
use llm_dit_chat::Chat;
use llm_dit_memory::MemoryBudget;
use llm_dit_params::GenerateOptions;
use llm_dit_proto::v1::{Preview, Queued, StepDone, generate_event::Event};
use llm_dit_testkit::{
    fakes::{FakeGenerator, FastDiffusion},
    http,
    servers::{Server, fake_encoder},
};
use reqwest::{Body, Response};
use serde_json::{Value, json};
use tokio::time;

use crate::support::{Events, Gateway, Stack, WIDTH, expected_png, options, problem};

const LIMIT: u64 = 16 << 20;

async fn until(done: impl Fn() -> bool) {
    let wait = async {
        while !done() {
            time::sleep(Duration::from_millis(5)).await;
        }
    };
    time::timeout(Duration::from_secs(60), wait).await.expect("it comes");
}

/// A request in a body of more than 3 MiB.
fn large() -> String {
    format!("{}{}", json!({"prompt": "x", "size": "96x64"}), " ".repeat(3 << 20))
}

async fn post(
    gateway: &Gateway,
    path: &str,
    content_type: &str,
    body: impl Into<Body>,
) -> Response {
    let request =
        http().post(format!("{}{path}", gateway.url)).header("content-type", content_type);
    request.body(body).send().await.expect("an answer")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_without_memory_is_refused_and_the_next_request_works() {
    let stack = Stack::start().await;
    let memory = MemoryBudget::new(LIMIT);
    let options = options(&[&stack.encoder.url], &[&stack.diffusion.url]);
    let gateway = Gateway::with(GatewayOptions { memory: memory.clone(), ..options }).await;
    let path = "/v1/images/generations";
    let held = memory.reserve("another request", LIMIT - (4 << 20)).expect("fits");
    let chunks = || {
        let body = large().into_bytes();
        let chunks: Vec<_> = body.chunks(1 << 16).map(|c| Ok::<_, String>(c.to_vec())).collect();
        Body::wrap_stream(stream::iter(chunks))
    };
    let form = || {
        let head = "--x\r\nContent-Disposition: form-data; name=\"image\"; filename=\"a\"\r\n\r\n";
        format!("{head}{}\r\n--x--\r\n", "i".repeat(3 << 20))
    };
    for refused in [
        post(&gateway, "/api/generate", "application/json", large()).await,
        post(&gateway, path, "application/json", chunks()).await,
        post(&gateway, "/v1/images/edits", "multipart/form-data; boundary=x", form()).await,
    ] {
        let detail = problem(refused, 503).await;
        assert!(detail.contains("--max-memory"), "{detail}");
    }
    until(|| memory.reserved() == held.bytes()).await;
    assert_eq!(gateway.post(&json!({"prompt": "x"})).await.status(), 200, "there is room for it");
    drop(held);
    for body in [Body::from(large()), chunks()] {
        assert_eq!(post(&gateway, path, "application/json", body).await.status(), 200);
    }
    until(|| memory.reserved() == 0).await;
    assert!(memory.peak() <= LIMIT);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_without_memory_is_refused_before_a_service_works_at_it() {
    let stack = Stack::start().await;
    let memory = MemoryBudget::new(LIMIT);
    let options = options(&[&stack.encoder.url], &[&stack.diffusion.url]);
    let gateway = Gateway::with(GatewayOptions { memory: memory.clone(), ..options }).await;
    let _held = memory.reserve("another request", LIMIT - (1 << 20)).expect("fits");
    let detail = problem(gateway.post(&json!({"prompt": "x"})).await, 503).await;
    assert!(detail.contains("the image") && detail.contains("--max-memory"), "{detail}");
}

#[tokio::test(flavor = "multi_thread")]
async fn json_of_many_values_is_refused() {
    let stack = Stack::start().await;
    let body = format!("{{\"prompt\": [{}[]]}}", "[],".repeat(1 << 20));
    for path in ["/v1/images/generations", "/api/generate", "/api/jobs"] {
        let refused = post(&stack.gateway, path, "application/json", body.clone()).await;
        let detail = problem(refused, 400).await;
        assert!(detail.contains("JSON values"), "{detail}");
    }
    // Text does not count.
    let body = json!({"prompt": "\\\",[{".repeat(4000)});
    assert_eq!(stack.gateway.post(&body).await.status(), 200);
}

fn floods() -> Vec<(&'static str, Vec<Event>)> {
    const EVENTS: u32 = 300_000;
    let queued = |position| Event::Queued(Queued { position });
    let step = |index, total| Event::Step(StepDone { index, total, seconds: 0.0 });
    let preview = Preview { step: 1, total: 4, data: vec![7; 64].into(), ..Default::default() };
    let all = |event: &dyn Fn(u32) -> Event| (0..EVENTS).map(event).collect::<Vec<_>>();
    vec![
        ("positions", all(&|n| queued(n % 2))),
        ("one position", all(&|_| queued(1))),
        ("previews", all(&|_| Event::Preview(preview.clone()))),
        ("steps of more than were asked for", all(&|n| step(n + 1, EVENTS))),
        ("one step", all(&|_| step(1, 4))),
        ("no step", vec![step(0, 4)]),
    ]
}

async fn fast(picture: &[u8], flood: Vec<Event>) -> Server {
    let fake = FastDiffusion {
        cap_feat_dim: WIDTH as u32,
        picture: picture.to_vec().into(),
        preview: None,
        flood,
    };
    Server::fast_diffusion(fake).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_floods_a_job_with_events_is_left() {
    let (encoder, _jobs) = fake_encoder(WIDTH);
    let encoder = Server::encoder(encoder).await;
    let size = GenerateOptions { width: Some(96), height: Some(64), ..Default::default() };
    let picture = expected_png(WIDTH, &Chat::user("x"), size, "");
    let good = fast(&picture, Vec::new()).await;
    let body = json!({"prompt": "x", "width": 96, "height": 64});
    for (what, flood) in floods() {
        let lying = fast(&picture, flood).await;
        let jobs = JobLimits { attempts: 1, ..Default::default() };
        let keep = KeepOptions { jobs, ..Default::default() };
        let alone = options(&[&encoder.url], &[&lying.url]);
        let alone = Gateway::with(GatewayOptions { keep, ..alone }).await;
        problem(alone.post(&body).await, 502).await;
        let job: Value = alone.post_to("/api/jobs", &body).await.json().await.expect("JSON");
        let events = format!("/api/jobs/{}/events", job["id"].as_str().expect("an id"));
        let last = Events::new(alone.get(&events).await).rest().await;
        assert_eq!(last.last().expect("an end").name, "error", "{what}");
        let log = Events::new(alone.get(&events).await).rest().await;
        assert!(log.len() <= 8, "{what}: {} events are kept", log.len());
        // Nobody was told of its steps, so another service may draw it.
        let both = Gateway::with(options(&[&encoder.url], &[&lying.url, &good.url])).await;
        assert_eq!(both.post(&body).await.status(), 200, "{what}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_has_a_limit_of_watchers() {
    let mut stack = Stack::with(FakeGenerator::gated(WIDTH), ServiceLimits::default(), WIDTH).await;
    let job = stack.gateway.post_to("/api/jobs", &json!({"prompt": "x"})).await;
    let job: Value = job.json().await.expect("JSON");
    let events = format!("/api/jobs/{}/events", job["id"].as_str().expect("an id"));
    let mut watchers = Vec::new();
    for _ in 0..64 {
        watchers.push(Events::new(stack.gateway.get(&events).await));
    }
    let detail = problem(stack.gateway.get(&events).await, 503).await;
    assert!(detail.contains("64 clients"), "{detail}");
    stack.control.open();
    for watcher in watchers {
        assert_eq!(watcher.rest().await.last().expect("an end").name, "result");
    }
    assert_eq!(stack.gateway.get(&events).await.status(), 200, "they left");
}
