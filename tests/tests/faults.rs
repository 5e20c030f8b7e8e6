//! Machines that are killed at work; and the short form of the run that `examples/faults.rs` makes at
//! length.

use std::process::Command;

use llm_dit_testkit::{
    faults::{Plan, run},
    http,
    process::{Process, program},
    repository,
};
use serde_json::{Value, json};

#[tokio::test(flavor = "multi_thread")]
async fn whatever_is_killed_no_job_is_lost_and_no_picture_is_mixed_up() {
    let report = run(Plan { kills: 1, waiting: 2, jobs: 2 }).await;
    println!("{report}");
    assert!(report.is_clean(), "{report}");
    assert_eq!(report.kills.values().sum::<u64>(), 4);
    assert!(report.pictures > 0 && report.done > 0, "{report}");
}

/// Starts a gateway before an encoder and two machines that draw.
fn stack() -> (Process, Process, [Process; 2]) {
    let model = repository("models/demo");
    let model = ["--model-path", model.to_str().expect("a path of text")];
    let encoder = Process::start("encoder-service", &model);
    let machines = [0, 1].map(|_| Process::start("diffusion-service", &model));
    let both = format!("{},{}", machines[0].url, machines[1].url);
    let args = ["--no-history", "--encoder", &encoder.url, "--diffusion", &both];
    (Process::start("gateway", &args), encoder, machines)
}

/// The one that works on a picture.
async fn busy(gateway: &Process) -> usize {
    loop {
        let health = http().get(format!("{}/health", gateway.url)).send().await.expect("an answer");
        let health: Value = health.json().await.expect("JSON");
        if let Some(at) = (0..2).find(|&at| health["diffusion"][at]["in_flight"] == 1) {
            return at;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_killed_machine_was_at_is_made_elsewhere_unless_steps_were_told() {
    let (gateway, _encoder, machines) = stack();
    let mut machines = machines.map(Some);
    let body = json!({"prompt": "a fox", "seed": 1, "width": 64, "height": 64, "steps": 200});
    let post = |accept: &'static str| {
        let request = http().post(format!("{}/api/generate", gateway.url));
        tokio::spawn(request.header("accept", accept).json(&body).send())
    };
    let expected = post("image/png").await.expect("no panic").expect("an answer");
    let expected = expected.bytes().await.expect("a picture");
    // Nobody hears of steps, so somebody else begins again.
    let silent = post("image/png");
    let first = busy(&gateway).await;
    machines[first].take().expect("runs").kill();
    let silent = silent.await.expect("no panic").expect("an answer");
    assert_eq!(silent.status(), 200);
    assert!(silent.bytes().await.expect("a picture") == expected);
    // Somebody does.
    let mut told = post("text/event-stream").await.expect("no panic").expect("an answer");
    let mut text = String::new();
    while !text.contains("\"stage\":\"denoising\"") {
        let chunk = told.chunk().await.expect("goes on").expect("goes on");
        text.push_str(std::str::from_utf8(&chunk).expect("ASCII"));
    }
    machines[1 - first].take().expect("runs").kill();
    text.push_str(&told.text().await.expect("it ends well"));
    let last = text.rsplit("event: ").next().expect("events");
    assert!(last.starts_with("error") && last.contains("\"status\":502"), "{last}");
    // Then there is nobody.
    let refused = post("image/png").await.expect("no panic").expect("an answer");
    assert_eq!(refused.status(), 503);
}

/// The job once it is over, or once it has told of a step.
async fn watch(gateway: &Process, job: &str, until: impl Fn(&Value) -> bool) -> Value {
    loop {
        let answer = http().get(format!("{}{job}", gateway.url)).send().await.expect("an answer");
        let now: Value = answer.json().await.expect("JSON");
        if until(&now) {
            return now;
        }
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
}

async fn create(gateway: &Process, body: &Value) -> String {
    let request = http().post(format!("{}/api/jobs", gateway.url)).json(body);
    let answer = request.send().await.expect("an answer");
    assert_eq!(answer.status(), 202);
    answer.headers()["location"].to_str().expect("text").to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_kills_its_machines_gets_two_of_them_and_the_one_behind_it_is_made() {
    let model = repository("models/demo");
    let model = ["--model-path", model.to_str().expect("a path of text")];
    let encoder = Process::start("encoder-service", &model);
    let mut machine = Process::start("diffusion-service", &model);
    let folder = tempfile::tempdir().expect("a folder");
    let folder = folder.path().to_str().expect("a path of text");
    let url = machine.url.clone();
    let args = ["--history", folder, "--encoder", &encoder.url, "--diffusion", &url];
    let mut gateway = Process::start("gateway", &args);
    let body = |size: u32, steps: u32| json!({"prompt": "a fox", "seed": 1, "width": size, "height": 64, "steps": steps});
    let poison = create(&gateway, &body(64, 200)).await;
    let is_over = |job: &Value| !matches!(job["status"].as_str(), Some("queued" | "running"));
    let runs = |job: &Value| is_over(job) || job["progress"]["step"].as_u64() > Some(0);
    let mut innocent = None;
    for attempt in 1..=2 {
        let now =
            watch(&gateway, &poison, |job| job["attempts"].as_u64() >= Some(attempt) && runs(job));
        assert_eq!(now.await["status"], "running", "attempt {attempt}");
        if innocent.is_none() {
            // Waits behind it.
            innocent = Some(create(&gateway, &body(80, 4)).await);
        }
        let port = machine.port().to_owned();
        machine.kill();
        // The first crash is known after a restart, too.
        if attempt == 1 {
            watch(&gateway, &poison, |job| job["status"] == "queued").await;
            gateway.kill();
            machine = Process::start_at("diffusion-service", &port, &model);
            gateway = Process::start("gateway", &args);
        } else {
            let failed = watch(&gateway, &poison, is_over).await;
            assert_eq!(
                (&failed["status"], &failed["error"]["status"]),
                (&json!("failed"), &json!(502))
            );
            let detail = failed["error"]["detail"].as_str().expect("text");
            assert!(detail.contains("2 services crashed"), "{detail}");
            machine = Process::start_at("diffusion-service", &port, &model);
        }
    }
    let innocent = innocent.expect("created");
    assert_eq!(watch(&gateway, &innocent, is_over).await["status"], "done");
    drop(machine);
}

#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread")]
async fn an_image_that_the_memory_does_not_suffice_for_is_refused_and_the_service_lives() {
    let model = repository("models/demo");
    let model = ["--model-path", model.to_str().expect("a path of text")];
    let encoder = Process::start("encoder-service", &model);
    // Two gigabytes of addresses; the image takes 2.3 for the VAE alone.
    let mut shell = Command::new("sh");
    shell.args(["-c", "ulimit -v 2000000; exec \"$0\" \"$@\""]).arg(program("diffusion-service"));
    shell.args(["--port", "0", "--vae-tiling", "off"]).args(model);
    let machine = Process::run(shell);
    let args = ["--no-history", "--encoder", &encoder.url, "--diffusion", &machine.url];
    let gateway = Process::start("gateway", &args);
    let post = async |side: u32| {
        let body = json!({"prompt": "x", "seed": 1, "width": side, "height": side, "steps": 1});
        let request = http().post(format!("{}/api/generate", gateway.url)).json(&body);
        request.send().await.expect("an answer")
    };
    let refused = post(2048).await;
    assert_eq!(refused.status(), 507);
    let problem: Value = refused.json().await.expect("JSON");
    let detail = problem["detail"].as_str().expect("text");
    assert!(detail.contains("2048x2048") && detail.contains("smaller size"), "{detail}");
    assert_eq!(post(64).await.status(), 200);
    // As a job it fails once, with the same reason.
    let body = json!({"prompt": "x", "seed": 1, "width": 2048, "height": 2048, "steps": 1});
    let job = create(&gateway, &body).await;
    let failed = watch(&gateway, &job, |job| job["status"] == "failed").await;
    assert_eq!((&failed["attempts"], &failed["error"]["status"]), (&json!(1), &json!(507)));
}
