//! `/api/jobs`.

use std::time::Duration;

use diffusion_service::ServiceLimits;
use gateway::KeepOptions;
use llm_dit_chat::Chat;
use llm_dit_params::GenerateOptions;
use llm_dit_testkit::{
    fakes::{FAILING_SEED, FakeGenerator, LASTING_SEED, Seen},
    http,
};
use reqwest::Response;
use serde_json::{Value, json};

use crate::support::{Events, Gateway, Sse, Stack, WIDTH, expected_png, options, problem};

async fn create(gateway: &Gateway, body: &Value) -> String {
    let response = gateway.post_to("/api/jobs", body).await;
    assert_eq!(response.status(), 202);
    let location = response.headers()["location"].to_str().expect("text").to_owned();
    let job: Value = response.json().await.expect("JSON");
    assert_eq!(location, format!("/api/jobs/{}", job["id"].as_str().expect("an id")));
    assert!(job["result"].is_null() && job["error"].is_null());
    location
}

async fn follow(gateway: &Gateway, job: &str, last: Option<u64>) -> Events {
    let mut request = http().get(format!("{}{job}/events", gateway.url));
    if let Some(last) = last {
        request = request.header("last-event-id", last.to_string());
    }
    let response: Response = request.send().await.expect("an answer");
    Events::new(response)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_goes_on_by_itself_and_tells_everybody_everything() {
    let mut stack = Stack::with(FakeGenerator::gated(WIDTH), ServiceLimits::default(), WIDTH).await;
    let gateway = &stack.gateway;
    let job = create(gateway, &json!({"prompt": "a fox", "seed": 3})).await;
    assert_eq!(stack.control.seen().await, Seen::Began { seed: 3 });
    problem(gateway.get(&format!("{job}/image")).await, 409).await;
    stack.control.permit();
    // One reader from the beginning, who sees the first step while it is the last that happened.
    let mut early = follow(gateway, &job, None).await;
    let mut seen = Vec::new();
    loop {
        let event = early.next().await.expect("an event");
        let done = event.data["step"] == 1;
        seen.push(event);
        if done {
            break;
        }
    }
    let now = gateway.json(&job).await;
    assert_eq!((&now["status"], &now["progress"]["step"]), (&json!("running"), &json!(1)));
    stack.control.open();
    seen.extend(early.rest().await);
    // Of the previews only the last is told again.
    let told_again = |mut events: Vec<Sse>| {
        events.retain(|event| event.name != "preview");
        events
    };
    let seen = told_again(seen);
    assert_eq!(seen.last().expect("an end").name, "result");
    let ids: Vec<u64> = seen.iter().map(|event| event.id.expect("an id")).collect();
    assert!(ids.is_sorted_by(|a, b| a < b), "{ids:?}");
    // One who comes when it is over, and one who has seen a part.
    let again = follow(gateway, &job, None).await.rest().await;
    assert!(again.iter().filter(|event| event.name == "preview").count() <= 1);
    assert_eq!(told_again(again), seen);
    let rest = follow(gateway, &job, Some(ids[2])).await.rest().await;
    assert_eq!(told_again(rest), seen[3..]);
    assert_eq!(follow(gateway, &job, ids.last().copied()).await.rest().await, []);

    let done = gateway.json(&job).await;
    assert_eq!(done["status"], "done");
    assert_eq!(done["result"]["image_url"], format!("{job}/image"));
    assert!(done["result"].get("image").is_none());
    let picture = gateway.get(&format!("{job}/image")).await;
    assert_eq!(picture.headers()["x-seed"], "3");
    let options = GenerateOptions { seed: Some(3), ..Default::default() };
    let expected = expected_png(WIDTH, &Chat::user("a fox"), options, "");
    assert_eq!(picture.bytes().await.expect("a picture"), expected);
    assert_eq!(gateway.json("/api/jobs").await["jobs"][0], done);

    // What is over is removed.
    assert_eq!(gateway.delete(&job).await.status(), 200);
    problem(gateway.get(&job).await, 404).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_job_stops_before_its_next_step() {
    let mut stack = Stack::start().await;
    let body = json!({"prompt": "x", "seed": LASTING_SEED, "steps": 50});
    let job = create(&stack.gateway, &body).await;
    while stack.control.seen().await != Seen::Step(1) {}
    let cancelled: Value = stack.gateway.delete(&job).await.json().await.expect("JSON");
    assert_eq!(
        (&cancelled["status"], &cancelled["error"]["status"]),
        (&json!("cancelled"), &json!(499))
    );
    // The first step may not have been reported yet when the caller left.
    let stopped =
        async { while !matches!(stack.control.seen().await, Seen::Stopped { after: 1..=2 }) {} };
    tokio::time::timeout(Duration::from_secs(5), stopped).await.expect("the engine is free");
    let events = follow(&stack.gateway, &job, None).await.rest().await;
    assert_eq!(events.last().expect("an end").name, "error");
    problem(stack.gateway.get(&format!("{job}/image")).await, 409).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_cannot_be_is_refused_and_one_that_fails_says_so() {
    let stack = Stack::start().await;
    for body in [json!({"prompt": ""}), json!({"prompt": "x", "width": 250}), json!({})] {
        problem(stack.gateway.post_to("/api/jobs", &body).await, 400).await;
    }
    let job = create(&stack.gateway, &json!({"prompt": "x", "seed": FAILING_SEED})).await;
    let events = follow(&stack.gateway, &job, None).await.rest().await;
    assert_eq!(events.last().expect("an end").name, "error");
    let failed = stack.gateway.json(&job).await;
    assert_eq!((&failed["status"], &failed["error"]["status"]), (&json!("failed"), &json!(500)));
    for path in ["/api/jobs/nonsense", "/api/jobs/00000000-0000-4000-8000-000000000000"] {
        for suffix in ["", "/events", "/image"] {
            problem(stack.gateway.get(&format!("{path}{suffix}")).await, 404).await;
        }
        problem(stack.gateway.delete(path).await, 404).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_gateway_says_when_to_come_back() {
    let Stack { encoder, diffusion, mut control, .. } =
        Stack::with(FakeGenerator::gated(WIDTH), ServiceLimits::default(), WIDTH).await;
    let mut options = options(&[&encoder.url], &[&diffusion.url]);
    options.keep = KeepOptions { max_requests: 2, ..Default::default() };
    let gateway = Gateway::with(options).await;
    let (first, second) = (
        create(&gateway, &json!({"prompt": "x", "seed": 1})).await,
        create(&gateway, &json!({"prompt": "x", "seed": 2})).await,
    );
    for path in ["/api/jobs", "/api/generate", "/v1/images/generations"] {
        let refused = gateway.post_to(path, &json!({"prompt": "x"})).await;
        let detail = problem(refused, 503).await;
        assert!(detail.contains("2 images"), "{detail}");
    }
    assert_eq!(gateway.json("/health").await["requests"], json!({"running": 2, "limit": 2}));
    control.open();
    for job in [first, second] {
        let events = follow(&gateway, &job, None).await.rest().await;
        assert_eq!(events.last().expect("an end").name, "result");
    }
    assert_eq!(gateway.post(&json!({"prompt": "x"})).await.status(), 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_waits_where_a_request_would_be_refused() {
    let limits = ServiceLimits { queue_capacity: 1, ..Default::default() };
    let mut stack = Stack::with(FakeGenerator::gated(WIDTH), limits, WIDTH).await;
    let mut jobs = Vec::new();
    for seed in 1..=4 {
        jobs.push(create(&stack.gateway, &json!({"prompt": "x", "seed": seed})).await);
    }
    stack.control.open();
    for job in &jobs {
        let events = follow(&stack.gateway, job, None).await.rest().await;
        assert_eq!(events.last().expect("an end").name, "result");
    }
}
