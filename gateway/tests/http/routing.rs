//! Several machines: who gets what, and what becomes of those that fail.

use diffusion_service::{DiffusionHandle, ServiceLimits};
use encoder_service::engine::EncodeJob;
use gateway::{EncoderTarget, GatewayOptions};
use llm_dit_chat::Chat;
use llm_dit_heylook::{HeylookEncoder, HeylookOptions};
use llm_dit_params::GenerateOptions;
use llm_dit_testkit::{
    fakes::{
        Control, FakeGenerator, FakeHeylook, Seen,
        heylook::{self, Reply},
    },
    http,
    servers::{Server, fake_diffusion, fake_encoder},
};
use serde_json::{Value, json};
use tokio::{net::TcpListener, sync::mpsc::UnboundedReceiver};

use crate::support::{Events, Gateway, WIDTH, expected_embeddings, expected_png, options, problem};

/// Nothing listens here.
const NOBODY: &str = "http://127.0.0.1:9";

fn diffusion(generator: (FakeGenerator, Control)) -> (DiffusionHandle, Control) {
    fake_diffusion(generator, ServiceLimits::default(), None)
}

fn post(gateway: &Gateway, body: Value) -> tokio::task::JoinHandle<reqwest::Response> {
    let url = format!("{}/api/generate", gateway.url);
    tokio::spawn(async move { http().post(url).json(&body).send().await.expect("an answer") })
}

#[tokio::test(flavor = "multi_thread")]
async fn the_least_busy_machine_gets_the_next_picture() {
    let (encoder, _jobs) = fake_encoder(WIDTH);
    let encoder = Server::encoder(encoder).await;
    let (one, mut one_control) = diffusion(FakeGenerator::gated(WIDTH));
    let (two, mut two_control) = diffusion(FakeGenerator::gated(WIDTH));
    let (one, two) = (Server::diffusion(one).await, Server::diffusion(two).await);
    let gateway = Gateway::with(options(&[&encoder.url], &[&one.url, &two.url])).await;
    // Both are known from here on. Before, one that has answered goes before one not asked yet.
    gateway.json("/health").await;
    let mut tasks = Vec::new();
    // The first two begin at once, whichever machine comes first.
    for seed in [1, 2] {
        tasks.push(post(&gateway, json!({"prompt": "x", "seed": seed})));
    }
    let (a, b) = tokio::join!(one_control.seen(), two_control.seen());
    let seed = |seen| match seen {
        Seen::Began { seed } => seed,
        other => panic!("{other:?}"),
    };
    let mut seeds = [seed(a), seed(b)];
    seeds.sort_unstable();
    assert_eq!(seeds, [1, 2], "one each");
    // The first machine is done, so the next two pictures go to it while the other is still busy.
    one_control.open();
    while !matches!(one_control.seen().await, Seen::Finished { .. }) {}
    let finished = futures::future::select_all(&mut tasks).await.0;
    assert_eq!(finished.expect("no panic").status(), 200);
    for seed in [3, 4] {
        let response = gateway.post(&json!({"prompt": "x", "seed": seed})).await;
        assert_eq!(response.status(), 200);
        assert_eq!(one_control.seen().await, Seen::Began { seed });
        while !matches!(one_control.seen().await, Seen::Finished { .. }) {}
    }
    two_control.open();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_that_is_gone_is_left_alone_until_it_is_back() {
    let (encoder, _jobs) = fake_encoder(WIDTH);
    let encoder = Server::encoder(encoder).await;
    let (one, _one) = diffusion(FakeGenerator::free(WIDTH));
    let (two, mut two_control) = diffusion(FakeGenerator::free(WIDTH));
    let (one, two) = (Server::diffusion(one).await, Server::diffusion(two).await);
    let urls = [&*encoder.url, NOBODY];
    let gateway = Gateway::with(options(&urls, &[&one.url, &two.url, NOBODY])).await;
    let ask = async |seed: u64| gateway.post(&json!({"prompt": "x", "seed": seed})).await.status();
    for seed in 0..6 {
        assert_eq!(ask(seed).await, 200);
    }
    let address = one.url.trim_start_matches("http://").to_owned();
    one.stop().await;
    for seed in 10..16 {
        assert_eq!(ask(seed).await, 200);
    }
    let health = gateway.json("/health").await;
    let states: Vec<&str> = health["diffusion"]
        .as_array()
        .expect("an array")
        .iter()
        .map(|backend| backend["status"].as_str().expect("text"))
        .collect();
    assert_eq!(states, ["unreachable", "serving", "unreachable"]);
    two.stop().await;
    assert_eq!(ask(20).await, 503);
    while two_control.seen().await != (Seen::Finished { seed: 15 }) {}

    // It comes back under the same address, and is used as soon as its health answers.
    let listener = TcpListener::bind(&address).await.expect("the port is free again");
    let (again, mut control) = diffusion(FakeGenerator::free(WIDTH));
    let _again =
        Server::start(|_, shutdown| diffusion_service::run(listener, again, shutdown)).await;
    assert_eq!(ask(30).await, 200);
    assert_eq!(control.seen().await, Seen::Began { seed: 30 });
}

#[tokio::test(flavor = "multi_thread")]
async fn an_encoder_that_is_gone_is_left_alone_until_it_is_back() {
    let ((one, mut one_jobs), (two, mut two_jobs)) = (fake_encoder(WIDTH), fake_encoder(WIDTH));
    let (one, two) = (Server::encoder(one).await, Server::encoder(two).await);
    let (diffusion, _control) = diffusion(FakeGenerator::free(WIDTH));
    let diffusion = Server::diffusion(diffusion).await;
    let gateway = Gateway::with(options(&[&one.url, &two.url], &[&diffusion.url])).await;
    let mut number = 0;
    // No prompt comes twice, so that none is remembered.
    let mut ask = async |count: usize| {
        for _ in 0..count {
            number += 1;
            let body = json!({"prompt": format!("picture {number}")});
            assert_eq!(gateway.post(&body).await.status(), 200, "{number}");
        }
    };
    let took = |jobs: &mut UnboundedReceiver<EncodeJob>| {
        std::iter::from_fn(|| jobs.try_recv().ok()).count()
    };
    gateway.json("/health").await;
    ask(6).await;
    assert_eq!((took(&mut one_jobs), took(&mut two_jobs)), (3, 3), "equals take turns");
    let address = one.url.trim_start_matches("http://").to_owned();
    one.stop().await;
    ask(6).await;
    assert_eq!(took(&mut two_jobs), 6);

    let listener = TcpListener::bind(&address).await.expect("the port is free again");
    let (again, mut jobs) = fake_encoder(WIDTH);
    let _again = Server::start(|_, shutdown| encoder_service::run(listener, again, shutdown)).await;
    while gateway.json("/health").await["encoders"][0]["backends"][0]["status"] != "serving" {}
    ask(6).await;
    assert_eq!((took(&mut jobs), took(&mut two_jobs)), (3, 3));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_queue_is_no_reason_while_another_machine_has_room() {
    let (encoder, _jobs) = fake_encoder(WIDTH);
    let encoder = Server::encoder(encoder).await;
    let limits = ServiceLimits { queue_capacity: 1, ..Default::default() };
    let (full, mut full_control) = fake_diffusion(FakeGenerator::gated(WIDTH), limits, None);
    let full = Server::diffusion(full).await;
    // Filled by somebody else.
    let alone = Gateway::with(options(&[&encoder.url], &[&full.url])).await;
    let first = post(&alone, json!({"prompt": "x", "seed": 1}));
    assert_eq!(full_control.seen().await, Seen::Began { seed: 1 });
    let mut second = Events::new(alone.stream(&json!({"prompt": "x", "seed": 2})).await);
    while second.next().await.expect("an event").data["stage"] != "queued" {}

    let (free, mut control) = diffusion(FakeGenerator::free(WIDTH));
    let free = Server::diffusion(free).await;
    let gateway = Gateway::with(options(&[&encoder.url], &[&full.url, &free.url])).await;
    for seed in 10..14 {
        assert_eq!(gateway.post(&json!({"prompt": "x", "seed": seed})).await.status(), 200);
        while control.seen().await != (Seen::Finished { seed }) {}
    }
    full_control.open();
    assert_eq!(first.await.expect("no panic").status(), 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn encoders_are_chosen_by_name() {
    let (small, mut small_jobs) = fake_encoder(WIDTH);
    let (big, mut big_jobs) = fake_encoder(WIDTH);
    let (small, big) = (Server::encoder(small).await, Server::encoder(big).await);
    let (diffusion, _control) = diffusion(FakeGenerator::free(WIDTH));
    let diffusion = Server::diffusion(diffusion).await;
    let target = |name: &str, url: &str| EncoderTarget { name: name.into(), url: url.into() };
    let gateway = Gateway::with(GatewayOptions {
        encoders: vec![target("small", &small.url), target("big", &big.url)],
        diffusion: vec![diffusion.url.clone()],
        ..Default::default()
    })
    .await;
    assert_eq!(gateway.json("/api/model").await["encoders"], json!(["small", "big"]));
    assert_eq!(gateway.post(&json!({"prompt": "x"})).await.status(), 200);
    assert!(small_jobs.recv().await.is_some() && big_jobs.try_recv().is_err());
    assert_eq!(gateway.post(&json!({"prompt": "x", "encoder": "big"})).await.status(), 200);
    assert!(big_jobs.recv().await.is_some() && small_jobs.try_recv().is_err());
    let detail = problem(gateway.post(&json!({"prompt": "x", "encoder": "bigg"})).await, 400).await;
    assert!(detail.contains("did you mean 'big'?"), "{detail}");
    // No address that a request names is ever called.
    let address = json!({"prompt": "x", "encoder": big.url});
    problem(gateway.post(&address).await, 400).await;
    assert!(big_jobs.try_recv().is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn heylookitsanllm_encodes_when_it_is_asked_to() {
    let chat = Chat::user("a red apple");
    let tensor = expected_embeddings(WIDTH, &chat);
    let fake = FakeHeylook::replaying(&[]).await;
    // The fake diffusion service takes 100 tokens.
    let body = heylook::body(&chat.render(), "Qwen3-4B", -2, 100);
    let answer = heylook::hidden_states(&tensor, "Qwen3-4B", -2);
    let head = "content-type: application/json\r\n";
    fake.answer(&body, Reply::Bytes(heylook::response("200 OK", head, &answer)));
    let (encoder, mut jobs) = fake_encoder(WIDTH);
    let encoder = Server::encoder(encoder).await;
    let (diffusion, _control) = diffusion(FakeGenerator::free(WIDTH));
    let diffusion = Server::diffusion(diffusion).await;
    let heylook = HeylookEncoder::new(&fake.url, "Qwen3-4B", HeylookOptions::default());
    let gateway = Gateway::with(GatewayOptions {
        heylook: Some(heylook.expect("valid")),
        ..options(&[&encoder.url], &[&diffusion.url])
    })
    .await;
    let request = json!({"prompt": "a red apple", "seed": 42, "encoder": "heylookitsanllm"});
    let expected =
        expected_png(WIDTH, &chat, GenerateOptions { seed: Some(42), ..Default::default() }, "");
    for _ in 0..2 {
        let response = gateway.post(&request).await;
        assert_eq!(response.status(), 200);
        assert_eq!(response.bytes().await.expect("a picture"), expected);
    }
    assert_eq!(fake.requests().len(), 1, "the second was remembered");
    assert!(jobs.try_recv().is_err());
    let token = json!({"prompt": "a <|im_end|>", "encoder": "heylookitsanllm"});
    let detail = problem(gateway.post(&token).await, 400).await;
    assert!(detail.contains("special token"), "{detail}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_picture_that_was_not_begun_is_made_elsewhere() {
    let (encoder, _jobs) = fake_encoder(WIDTH);
    let encoder = Server::encoder(encoder).await;
    let (one, mut one_control) = diffusion(FakeGenerator::gated(WIDTH));
    let (two, mut two_control) = diffusion(FakeGenerator::gated(WIDTH));
    let (one, two) = (Server::diffusion(one).await, Server::diffusion(two).await);
    let gateway = Gateway::with(options(&[&encoder.url], &[&one.url, &two.url])).await;
    gateway.json("/health").await;
    // One picture in the making on each, and one more in the line of the first or the second.
    let begun = [
        post(&gateway, json!({"prompt": "x", "seed": 1})),
        post(&gateway, json!({"prompt": "x", "seed": 2})),
    ];
    tokio::join!(one_control.seen(), two_control.seen());
    let mut waiting = Events::new(gateway.stream(&json!({"prompt": "x", "seed": 3})).await);
    while waiting.next().await.expect("an event").data["stage"] != "queued" {}
    let health = gateway.json("/health").await;
    let on_first = health["diffusion"][0]["in_flight"] == 2;
    // The machine that it waits at is told to stop: what has not begun there is refused.
    let (stopping, mut other, mut own) =
        if on_first { (one, two_control, one_control) } else { (two, one_control, two_control) };
    stopping.shutdown.cancel();
    other.open();
    own.open();
    let events = waiting.rest().await;
    assert_eq!(events.last().expect("an end").name, "result", "{events:?}");
    for task in begun {
        assert_eq!(task.await.expect("no panic").status(), 200);
    }
}
