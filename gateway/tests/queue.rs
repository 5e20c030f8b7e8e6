//! Gateways that share a queue, against a real NATS server: a front, workers that are killed, and a
//! server that is.
//!
//! `.ci/queue` runs them; they are ignored elsewhere since they need a nats-server.

#[path = "http/support.rs"]
#[expect(dead_code, reason = "most of it is for the gateway's own tests")]
mod support;

use std::{num::NonZeroUsize, time::Duration};

use diffusion_service::ServiceLimits;
use gateway::{GatewayOptions, KeepOptions, QueueOptions, QueueRole};
use llm_dit_testkit::{
    fakes::{Control, FakeGenerator, Seen},
    http,
    nats::NatsServer,
    process::Process,
    servers::{Server, fake_diffusion, fake_encoder},
};
use reqwest::Response;
use serde_json::{Value, json};
use tokio::time;

use crate::support::{Events, Gateway, WIDTH, options, problem};

const LEASE: Duration = Duration::from_secs(2);
/// Beyond anything that is waited for.
const PATIENCE: Duration = Duration::from_secs(60);

/// Services of one machine.
struct Machine {
    encoder: Server,
    diffusion: Server,
    control: Control,
}

impl Machine {
    async fn start(generator: (FakeGenerator, Control)) -> Self {
        let (encoder, jobs) = fake_encoder(WIDTH);
        std::mem::forget(jobs);
        let encoder = Server::encoder(encoder).await;
        let (diffusion, control) = fake_diffusion(generator, ServiceLimits::default(), None);
        Self { encoder, diffusion: Server::diffusion(diffusion).await, control }
    }

    /// A gateway on this machine, in this process.
    async fn gateway(&self, server: &NatsServer, role: QueueRole, max_jobs: u32) -> Gateway {
        let queue = QueueOptions {
            urls: vec![server.url.clone()],
            role,
            nkey: None,
            ca: None,
            lease: LEASE,
            claims: NonZeroUsize::MIN,
            max_jobs,
            replicas: 1,
        };
        let keep = KeepOptions { queue: Some(queue), ..KeepOptions::default() };
        let options = options(&[&self.encoder.url], &[&self.diffusion.url]);
        Gateway::with(GatewayOptions { keep, ..options }).await
    }

    /// Likewise, in a process that can be killed.
    fn worker(&self, server: &NatsServer) -> Process {
        let (encoder, diffusion) = (&self.encoder.url, &self.diffusion.url);
        let services = ["--encoder", encoder, "--diffusion", diffusion];
        let queue = ["--queue", &server.url, "--queue-role", "worker", "--queue-lease", "2"];
        Process::start("gateway", &[&services[..], &queue, &["--queue-claims", "1"]].concat())
    }
}

async fn create(gateway: &Gateway, body: &Value) -> String {
    let response = gateway.post_to("/api/jobs", body).await;
    let status = response.status();
    let location = response.headers().get("location").cloned();
    assert_eq!(status, 202, "{}", response.text().await.expect("text"));
    location.expect("a place").to_str().expect("text").to_owned()
}

async fn until<T>(mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let wait = async {
        loop {
            if let Some(found) = look().await {
                return found;
            }
            time::sleep(Duration::from_millis(20)).await;
        }
    };
    time::timeout(PATIENCE, wait).await.expect("it comes")
}

/// Waits until a gateway knows the job in this state.
async fn becomes(gateway: &str, job: &str, status: &str) -> Value {
    until(async || {
        let answer = http().get(format!("{gateway}{job}")).send().await.expect("an answer");
        let known: Value = answer.json().await.expect("JSON");
        (known["status"] == status).then_some(known)
    })
    .await
}

/// Waits until the history has so many images, which it gets right after the end of a job.
async fn keeps(gateway: &Gateway, total: u64) {
    until(async || (gateway.json("/api/history").await["total"] == total).then_some(())).await;
}

async fn bytes(response: Response) -> Vec<u8> {
    assert_eq!(response.status(), 200);
    response.bytes().await.expect("a file").to_vec()
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs nats-server: .ci/queue"]
async fn a_job_of_a_front_is_drawn_by_a_worker_and_seen_through_both() {
    let server = NatsServer::start();
    let mut machine = Machine::start(FakeGenerator::gated(WIDTH)).await;
    let front = machine.gateway(&server, QueueRole::Front, 10).await;
    let worker = machine.gateway(&server, QueueRole::Worker, 10).await;
    let refused = worker.post_to("/api/jobs", &json!({"prompt": "x"})).await;
    assert!(problem(refused, 501).await.contains("--queue-role worker"));
    let job = create(&front, &json!({"prompt": "a fox", "seed": 3})).await;
    assert_eq!(machine.control.seen().await, Seen::Began { seed: 3 });
    becomes(&front.url, &job, "running").await;
    let mut events = Events::new(front.get(&format!("{job}/events")).await);
    machine.control.permit();
    let mut seen = Vec::new();
    loop {
        let event = events.next().await.expect("an event");
        let is_step = event.data["step"] == 1;
        seen.push(event);
        if is_step {
            break;
        }
    }
    machine.control.open();
    seen.extend(events.rest().await);
    assert!(seen.iter().is_sorted_by_key(|event| event.id), "{seen:?}");
    assert_eq!(seen.last().expect("an end").name, "result");
    for gateway in [&front, &worker] {
        let done = becomes(&gateway.url, &job, "done").await;
        assert_eq!(
            (&done["attempts"], &done["result"]["parameters"]["seed"]),
            (&json!(1), &json!(3))
        );
        let listed = gateway.json("/api/jobs").await;
        assert_eq!(listed["jobs"].as_array().expect("a list").len(), 1);
        let image = bytes(gateway.get(&format!("{job}/image")).await).await;
        assert!(image.starts_with(b"\x89PNG"));
        let history = until(async || {
            let history = gateway.json("/api/history").await;
            (history["total"] == 1).then_some(history)
        })
        .await;
        let id = history["history"][0]["id"].as_u64().expect("an id");
        assert_eq!(bytes(gateway.get(&format!("/api/history/{id}/image")).await).await, image);
        bytes(gateway.get(&format!("/api/history/{id}/thumbnail")).await).await;
        // A reader from before goes on where it was: nothing comes twice.
        let last = seen.last().and_then(|event| event.id).expect("a number");
        let request = http().get(format!("{}{job}/events", gateway.url));
        let request = request.header("last-event-id", last.to_string());
        assert!(Events::new(request.send().await.expect("an answer")).rest().await.is_empty());
    }
    // Whoever removes it removes it for all.
    assert_eq!(worker.delete(&job).await.status(), 200);
    until(async || (front.get(&job).await.status() == 404).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs nats-server: .ci/queue"]
async fn a_job_of_a_killed_worker_goes_to_another_and_has_one_result() {
    let server = NatsServer::start();
    let mut first = Machine::start(FakeGenerator::gated(WIDTH)).await;
    let front = first.gateway(&server, QueueRole::Front, 10).await;
    let killed = first.worker(&server);
    let job = create(&front, &json!({"prompt": "a fox", "steps": 50})).await;
    let Seen::Began { seed } = first.control.seen().await else { panic!("it begins") };
    first.control.permit();
    becomes(&front.url, &job, "running").await;
    let mut second = Machine::start(FakeGenerator::gated(WIDTH)).await;
    let _other = second.worker(&server);
    killed.kill();
    let taken = time::timeout(LEASE + Duration::from_secs(2), second.control.seen()).await;
    assert_eq!(taken.expect("within the lease and 2 s"), Seen::Began { seed }, "the same picture");
    second.control.open();
    let done = becomes(&front.url, &job, "done").await;
    assert_eq!(done["attempts"], 2, "{done}");
    keeps(&front, 1).await;
    bytes(front.get(&format!("{job}/image")).await).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs nats-server: .ci/queue"]
async fn a_job_is_cancelled_and_a_key_kept_by_any_front() {
    let server = NatsServer::start();
    let mut machine = Machine::start(FakeGenerator::gated(WIDTH)).await;
    let front = machine.gateway(&server, QueueRole::Front, 10).await;
    let other = machine.gateway(&server, QueueRole::Front, 10).await;
    let _worker = machine.gateway(&server, QueueRole::Worker, 10).await;
    let running = create(&front, &json!({"prompt": "x", "seed": 1})).await;
    assert_eq!(machine.control.seen().await, Seen::Began { seed: 1 });
    let send = async |gateway: &Gateway, prompt: &str| {
        let request = http().post(format!("{}/api/jobs", gateway.url));
        let request = request.header("idempotency-key", "k").json(&json!({"prompt": prompt}));
        request.send().await.expect("an answer")
    };
    let waiting = send(&front, "y").await;
    assert_eq!(waiting.status(), 202);
    let waiting = waiting.headers()["location"].to_str().expect("text").to_owned();
    let again = send(&other, "y").await;
    assert_eq!(again.headers()["idempotent-replayed"], "true");
    assert_eq!(again.headers()["location"], *waiting);
    assert_eq!(send(&other, "z").await.status(), 422);
    for job in [&waiting, &running] {
        becomes(&other.url, job, if *job == running { "running" } else { "queued" }).await;
        assert_eq!(other.delete(job).await.status(), 200);
        becomes(&front.url, job, "cancelled").await;
    }
    machine.control.permit();
    loop {
        match machine.control.seen().await {
            Seen::Stopped { .. } => break,
            Seen::Began { seed } => assert_eq!(seed, 1, "the cancelled one never begins"),
            _ => machine.control.permit(),
        }
    }
    // The worker goes on with the next one.
    let next = create(&other, &json!({"prompt": "x", "seed": 7})).await;
    machine.control.open();
    assert_eq!(becomes(&front.url, &next, "done").await["result"]["parameters"]["seed"], 7);
    assert_eq!(becomes(&front.url, &running, "cancelled").await["attempts"], 1);
    keeps(&front, 1).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs nats-server: .ci/queue"]
async fn a_full_queue_and_a_lost_server_are_said_and_pass() {
    let mut server = NatsServer::start();
    let mut machine = Machine::start(FakeGenerator::gated(WIDTH)).await;
    let front = machine.gateway(&server, QueueRole::Front, 2).await;
    let jobs = [
        create(&front, &json!({"prompt": "x", "seed": 1})).await,
        create(&front, &json!({"prompt": "x", "seed": 2})).await,
    ];
    let full = front.post_to("/api/jobs", &json!({"prompt": "x"})).await;
    assert_eq!(full.headers()["retry-after"], "10");
    assert!(problem(full, 503).await.contains("queue is full"));
    assert_eq!(front.json("/api/jobs").await["jobs"].as_array().expect("a list").len(), 2);
    assert_eq!(front.get("/readyz").await.status(), 200);

    server.kill();
    until(async || (front.get("/readyz").await.status() == 503).then_some(())).await;
    let away = front.post_to("/api/jobs", &json!({"prompt": "x"})).await;
    assert!(problem(away, 503).await.contains("cannot be reached"));
    // What is known is still told.
    becomes(&front.url, &jobs[0], "queued").await;
    server.restart();
    until(async || (front.get("/readyz").await.status() == 200).then_some(())).await;

    // A worker draws through one more restart.
    let _worker = machine.gateway(&server, QueueRole::Worker, 2).await;
    assert_eq!(machine.control.seen().await, Seen::Began { seed: 1 });
    server.kill();
    machine.control.open();
    server.restart();
    for job in &jobs {
        becomes(&front.url, job, "done").await;
    }
    keeps(&front, 2).await;
    let next = create(&front, &json!({"prompt": "x", "seed": 3})).await;
    becomes(&front.url, &next, "done").await;
}
