//! Jobs and the end of the gateway: killed, asked to end, and with a disk that is full.

use std::{path::Path, process::Command, time::Duration};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use diffusion_service::ServiceLimits;
use llm_dit_testkit::{
    fakes::{FakeGenerator, Seen},
    http,
    process::{Process, program},
    servers::Server,
};
use reqwest::Response;
use serde_json::{Value, json};

use crate::support::{Events, Stack, WIDTH, problem};

/// A gateway whose history is in `folder`.
fn command(encoder: &Server, diffusion: &Server, folder: &Path) -> Vec<String> {
    let folder = folder.to_str().expect("a path of text");
    ["--encoder", &encoder.url, "--diffusion", &diffusion.url, "--history", folder]
        .map(str::to_owned)
        .to_vec()
}

fn start(args: &[String], more: &[&str]) -> Process {
    let args: Vec<&str> = args.iter().map(String::as_str).chain(more.iter().copied()).collect();
    Process::start("gateway", &args)
}

async fn post(gateway: &Process, path: &str, body: &Value, key: Option<&str>) -> Response {
    let mut request = http().post(format!("{}{path}", gateway.url)).json(body);
    if let Some(key) = key {
        request = request.header("idempotency-key", key);
    }
    request.send().await.expect("an answer")
}

async fn get(gateway: &Process, path: &str) -> Response {
    http().get(format!("{}{path}", gateway.url)).send().await.expect("an answer")
}

async fn json_of(gateway: &Process, path: &str) -> Value {
    get(gateway, path).await.json().await.expect("JSON")
}

/// The path of a new job.
async fn create(gateway: &Process, body: &Value) -> String {
    let response = post(gateway, "/api/jobs", body, None).await;
    assert_eq!(response.status(), 202);
    response.headers()["location"].to_str().expect("text").to_owned()
}

/// Waits for the end of a job, and returns it.
async fn ended(gateway: &Process, job: &str) -> Value {
    Events::new(get(gateway, &format!("{job}/events")).await).rest().await;
    json_of(gateway, job).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_gateway_comes_back_with_its_jobs_and_makes_each_once() {
    let folder = tempfile::tempdir().expect("a folder");
    let Stack { encoder, diffusion, mut control, .. } =
        Stack::with(FakeGenerator::gated(WIDTH), ServiceLimits::default(), WIDTH).await;
    let args = command(&encoder, &diffusion, folder.path());
    let first = start(&args, &[]);
    // Nobody said which seed.
    let drawn = create(&first, &json!({"prompt": "a fox", "steps": 50})).await;
    let Seen::Began { seed } = control.seen().await else { panic!("it begins") };
    control.permit();
    assert_eq!(control.seen().await, Seen::Step(1));
    let mut early = Events::new(get(&first, &format!("{drawn}/events")).await);
    let mut last = 0;
    while let Some(event) = early.next().await {
        last = event.id.expect("an id");
        if event.data["step"] == 1 {
            break;
        }
    }
    let cancelled = create(&first, &json!({"prompt": "x", "seed": 1})).await;
    let deleted = http().delete(format!("{}{cancelled}", first.url)).send().await;
    assert_eq!(deleted.expect("an answer").status(), 200);
    let second = create(&first, &json!({"prompt": "x", "seed": 2})).await;
    let source = picture();
    let image = json!({
        "prompt": "x", "seed": 3, "steps": 4, "strength": 0.5, "image": STANDARD.encode(source),
        "width": 64, "height": 64,
    });
    let from_picture = create(&first, &image).await;
    first.kill();
    // What it had begun ends with it, as soon as the service has noticed.
    loop {
        control.permit();
        if let Seen::Stopped { .. } = control.seen().await {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }

    let gateway = start(&args, &[]);
    let jobs = json_of(&gateway, "/api/jobs").await;
    let ids: Vec<String> = jobs["jobs"]
        .as_array()
        .expect("an array")
        .iter()
        .map(|job| format!("/api/jobs/{}", job["id"].as_str().expect("an id")))
        .collect();
    assert_eq!(ids, [&*from_picture, &*second, &*cancelled, &*drawn]);
    assert_eq!(json_of(&gateway, &cancelled).await["status"], "cancelled");
    // What was still in the line may have had its turn, to be told that nobody wants it.
    let same = async { while control.seen().await != (Seen::Began { seed }) {} };
    tokio::time::timeout(Duration::from_secs(60), same).await.expect("the same picture");
    // A reader from before goes on where it was.
    let request = http().get(format!("{}{drawn}/events", gateway.url));
    let request = request.header("last-event-id", last.to_string());
    let late = Events::new(request.send().await.expect("an answer"));
    control.open();
    let mut began = Vec::new();
    while began.len() < 2 {
        if let Seen::Began { seed } = control.seen().await {
            began.push(seed);
        }
    }
    assert_eq!(began, [2, 3], "in the order in which they were accepted");
    let late = late.rest().await;
    assert!(late.iter().all(|event| event.id > Some(last)), "{late:?}");
    assert_eq!(late.last().expect("an end").name, "result");
    for (job, attempts) in [(&drawn, 2), (&second, 1), (&from_picture, 1)] {
        let done = ended(&gateway, job).await;
        assert_eq!(done["status"], "done", "{done}");
        assert!(done["attempts"].as_u64().expect("a number") >= attempts, "{done}");
        let file = get(&gateway, &format!("{job}/image")).await.bytes().await.expect("a file");
        let mut same = done["result"]["parameters"].clone();
        if job == &from_picture {
            same["image"] = image["image"].clone();
        }
        let again = post(&gateway, "/api/generate", &same, None).await;
        assert!(again.bytes().await.expect("a file") == file, "{job}: another picture");
    }
    let kept = json_of(&gateway, "/api/history").await;
    assert_eq!(kept["total"], 6, "three of jobs, three to compare");
    let id = ended(&gateway, &drawn).await["result"]["history_id"].clone();
    gateway.kill();
    // What is over is not done again.
    let gateway = start(&args, &[]);
    assert_eq!(ended(&gateway, &drawn).await["result"]["history_id"], id);
    assert_eq!(json_of(&gateway, "/api/history").await["total"], 6);
    assert_eq!(get(&gateway, &format!("{drawn}/image")).await.status(), 200);
    http().delete(format!("{}/api/history/{id}", gateway.url)).send().await.expect("deleted");
    problem(get(&gateway, &format!("{drawn}/image")).await, 410).await;
}

/// A small picture.
fn picture() -> Vec<u8> {
    let mut file = std::io::Cursor::new(Vec::new());
    let pixels = image::RgbImage::from_fn(64, 64, |x, y| image::Rgb([x as u8 * 3, y as u8 * 3, 9]));
    pixels.write_to(&mut file, image::ImageFormat::Png).expect("a picture");
    file.into_inner()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_is_sent_again_under_its_key_is_one_job() {
    let folder = tempfile::tempdir().expect("a folder");
    let Stack { encoder, diffusion, control: _control, .. } = Stack::start().await;
    let args = command(&encoder, &diffusion, folder.path());
    let mut gateway = start(&args, &[]);
    let body = json!({"prompt": "a fox"});
    let asked = (0..8).map(|_| post(&gateway, "/api/jobs", &body, Some("once")));
    let mut ids = Vec::new();
    for response in futures::future::join_all(asked).await {
        assert_eq!(response.status(), 202);
        let again = response.headers().contains_key("idempotent-replayed");
        let job: Value = response.json().await.expect("JSON");
        ids.push((again, job["id"].as_str().expect("an id").to_owned()));
    }
    assert!(ids.iter().all(|(_, id)| *id == ids[0].1), "{ids:?}");
    assert_eq!(ids.iter().filter(|(again, _)| !again).count(), 1);
    ended(&gateway, &format!("/api/jobs/{}", ids[0].1)).await;
    for _ in 0..2 {
        let job: Value =
            post(&gateway, "/api/jobs", &body, Some("once")).await.json().await.expect("JSON");
        assert_eq!((&job["id"], &job["status"]), (&json!(ids[0].1), &json!("done")));
        let other = post(&gateway, "/api/jobs", &json!({"prompt": "a cat"}), Some("once")).await;
        assert!(problem(other, 422).await.contains(&ids[0].1));
        gateway.kill();
        gateway = start(&args, &[]);
    }
    let long = "x".repeat(256);
    for key in ["", &long] {
        problem(post(&gateway, "/api/jobs", &body, Some(key)).await, 400).await;
    }
    assert_eq!(json_of(&gateway, "/api/history").await["total"], 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_grace_period_cuts_off_is_left_to_the_next_gateway() {
    let folder = tempfile::tempdir().expect("a folder");
    let Stack { encoder, diffusion, mut control, .. } =
        Stack::with(FakeGenerator::gated(WIDTH), ServiceLimits::default(), WIDTH).await;
    let args = command(&encoder, &diffusion, folder.path());
    let gateway = start(&args, &["--grace", "2"]);
    let job = create(&gateway, &json!({"prompt": "x", "seed": 5})).await;
    assert_eq!(control.seen().await, Seen::Began { seed: 5 });
    gateway.terminate();
    // It still answers, but takes nothing new.
    let health = loop {
        let health = get(&gateway, "/health").await;
        if health.status() == 503 {
            break health.json::<Value>().await.expect("JSON");
        }
    };
    assert_eq!(health["status"], "draining");
    for path in ["/api/jobs", "/api/generate"] {
        let refused = post(&gateway, path, &json!({"prompt": "x"}), None).await;
        assert!(problem(refused, 503).await.contains("shutting down"));
    }
    assert_eq!(json_of(&gateway, &job).await["status"], "running");
    assert_eq!(gateway.ended(), Some(0));

    control.open();
    let gateway = start(&args, &["--grace", "60"]);
    let done = ended(&gateway, &job).await;
    assert_eq!((&done["status"], &done["attempts"]), (&json!("done"), &json!(1)), "{done}");
    // With nothing to do it does not wait.
    assert_eq!(gateway.stop(), Some(0));
}

#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_costs_what_would_be_kept_and_nothing_else() {
    let folder = tempfile::tempdir().expect("a folder");
    let Stack { encoder, diffusion, mut control, .. } =
        Stack::with(FakeGenerator::gated(WIDTH), ServiceLimits::default(), WIDTH).await;
    // A file that grows past the limit would end the process, if the shell did not ignore that.
    let mut shell = Command::new("sh");
    shell.args(["-c", "trap '' XFSZ; exec \"$0\" \"$@\""]).arg(program("gateway"));
    shell.args(["--port", "0", "--max-requests", "2"]).args(command(
        &encoder,
        &diffusion,
        folder.path(),
    ));
    let gateway = Process::run(shell);
    let limit = |bytes: &str| {
        let limit = ["--pid", &gateway.id(), &format!("--fsize={bytes}:")];
        let set = Command::new("prlimit").args(limit).status();
        assert!(set.expect("prlimit is part of util-linux").success());
    };
    let running = create(&gateway, &json!({"prompt": "x", "seed": 1})).await;
    assert_eq!(control.seen().await, Seen::Began { seed: 1 });
    let second = create(&gateway, &json!({"prompt": "x", "seed": 2})).await;

    limit("1");
    // What runs is made, and is to be had.
    control.open();
    for job in [&running, &second] {
        let done = ended(&gateway, job).await;
        assert_eq!(
            (&done["status"], &done["result"]["history_id"]),
            (&json!("done"), &json!(null))
        );
        assert_eq!(get(&gateway, &format!("{job}/image")).await.status(), 200);
    }
    // Without a place: both places are for others.
    let detail = problem(post(&gateway, "/api/jobs", &json!({"prompt": "x"}), None).await, 503);
    let detail = detail.await;
    assert!(detail.contains("cannot store the job") && detail.contains("disk"), "{detail}");
    let health = json_of(&gateway, "/health").await;
    assert_eq!(
        (&health["status"], &health["history"]["status"]),
        (&json!("ok"), &json!("failing"))
    );
    assert_eq!(health["requests"]["running"], 0);
    let now = post(&gateway, "/api/generate", &json!({"prompt": "x"}), None).await;
    assert_eq!(now.status(), 200);

    limit("unlimited");
    // Stored as soon as it is tried again.
    let kept = async {
        for job in [&running, &second] {
            while json_of(&gateway, job).await["result"]["history_id"].is_null() {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(60), kept).await.expect("it is stored");
    assert_eq!(json_of(&gateway, "/health").await["history"], json!({"status": "ok"}));
    let job = create(&gateway, &json!({"prompt": "x"})).await;
    assert_eq!(ended(&gateway, &job).await["status"], "done");
}
