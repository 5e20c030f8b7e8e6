//! Machines that are killed at work; and the short form of the run that `examples/faults.rs` makes at
//! length.

use llm_dit_testkit::{
    faults::{Plan, run},
    http,
    process::Process,
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
