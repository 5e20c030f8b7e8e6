//! `/api/history`.

use std::path::Path;

use futures::future;
use gateway::{GatewayOptions, History, KeepOptions};
use llm_dit_testkit::{http, process::Process, servers::Server};
use serde_json::{Value, json};

use crate::support::{Gateway, Stack, options, problem};

fn keeping(encoder: &Server, diffusion: &Server, folder: &Path) -> GatewayOptions {
    let mut options = options(&[&encoder.url], &[&diffusion.url]);
    options.keep = KeepOptions {
        history: History::Folder(folder.to_owned()),
        history_max: 4,
        ..Default::default()
    };
    options
}

fn ids(history: &Value) -> Vec<u64> {
    let entries = history["history"].as_array().expect("an array");
    entries.iter().map(|entry| entry["id"].as_u64().expect("a number")).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn pictures_can_be_looked_at_again_and_forgotten() {
    let folder = tempfile::tempdir().expect("a folder");
    let Stack { encoder, diffusion, control: _control, .. } = Stack::start().await;
    let gateway = Gateway::with(keeping(&encoder, &diffusion, folder.path())).await;
    let mut pictures = Vec::new();
    for seed in 1..=5 {
        let response = gateway.post(&json!({"prompt": "a fox", "seed": seed})).await;
        assert_eq!(response.headers()["x-history-id"], seed.to_string().as_str());
        pictures.push(response.bytes().await.expect("a picture"));
    }
    let all = gateway.json("/api/history").await;
    assert_eq!((ids(&all), &all["total"]), (vec![5, 4, 3, 2], &json!(4)), "the oldest is gone");
    let page = gateway.json("/api/history?limit=2&before=5").await;
    assert_eq!(ids(&page), [4, 3]);
    let entry = gateway.json("/api/history/3").await;
    assert_eq!(entry, all["history"][2]);
    assert_eq!(entry["parameters"]["seed"], 3);
    let file = gateway.get(entry["image_url"].as_str().expect("a path")).await;
    assert_eq!(file.headers()["content-type"], "image/png");
    assert_eq!(file.bytes().await.expect("a picture"), pictures[2]);
    let again = gateway.post(&entry["parameters"]).await;
    assert_eq!(again.bytes().await.expect("a picture"), pictures[2], "made again from its entry");
    let small = gateway.get("/api/history/3/thumbnail").await;
    assert_eq!(small.headers()["content-type"], "image/jpeg");
    let small = small.bytes().await.expect("a picture");
    assert_eq!(image::load_from_memory(&small).expect("a JPEG").into_rgb8().dimensions(), (64, 64));

    let deleted: Value = gateway.delete("/api/history/4").await.json().await.expect("JSON");
    assert_eq!(deleted, json!({"deleted": 4, "remaining": 3}));
    for path in ["/api/history/4", "/api/history/99", "/api/history/x", "/api/history/4/image"] {
        problem(gateway.get(path).await, 404).await;
    }
    problem(gateway.delete("/api/history/4").await, 404).await;
    for query in ["limit=0", "limit=201", "limit=x", "befor=3"] {
        problem(gateway.get(&format!("/api/history?{query}")).await, 400).await;
    }
    let cleared: Value = gateway.delete("/api/history").await.json().await.expect("JSON");
    assert_eq!(cleared, json!({"cleared": 3}));
    assert_eq!(gateway.json("/api/history").await, json!({"history": [], "total": 0}));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_without_a_history_says_so() {
    let stack = Stack::start().await;
    assert!(
        stack.gateway.post(&json!({"prompt": "x"})).await.headers().get("x-history-id").is_none()
    );
    for path in ["/api/history", "/api/history/1", "/api/history/1/image"] {
        problem(stack.gateway.get(path).await, 501).await;
    }
    problem(stack.gateway.delete("/api/history").await, 501).await;
}

/// A gateway in a process of its own, which can be killed.
fn start(encoder: &Server, diffusion: &Server, history: &Path) -> Process {
    let history = history.to_str().expect("a path of text");
    let args = ["--encoder", &encoder.url, "--diffusion", &diffusion.url, "--history", history];
    Process::start("gateway", &args)
}

async fn json_of(gateway: &Process, path: &str) -> Value {
    let response = http().get(format!("{}{path}", gateway.url)).send().await.expect("an answer");
    response.json().await.expect("JSON")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_gateway_comes_back_with_its_pictures() {
    let folder = tempfile::tempdir().expect("a folder");
    let Stack { encoder, diffusion, control: _control, .. } = Stack::start().await;
    let mut files = Vec::new();
    for round in 1..=3u64 {
        let gateway = start(&encoder, &diffusion, folder.path());
        let body = json!({"prompt": "a fox", "seed": round});
        let request = http().post(format!("{}/api/generate", gateway.url));
        let response = request.json(&body).send().await.expect("an answer");
        assert_eq!(response.status(), 200);
        files.push(response.bytes().await.expect("a picture"));
        // It has been written once somebody has seen it.
        let all = json_of(&gateway, "/api/history").await;
        assert_eq!(ids(&all), (1..=round).rev().collect::<Vec<_>>());
        gateway.kill();
    }
    let gateway = start(&encoder, &diffusion, folder.path());
    for (id, file) in (1..).zip(&files) {
        let url = format!("{}/api/history/{id}/image", gateway.url);
        let kept =
            http().get(url).send().await.expect("an answer").bytes().await.expect("a picture");
        assert_eq!(kept, file, "{id}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_that_is_killed_at_work_has_only_whole_pictures() {
    let folder = tempfile::tempdir().expect("a folder");
    let Stack { encoder, diffusion, control: _control, .. } = Stack::start().await;
    let mut newest = 0;
    for _ in 0..4 {
        let gateway = start(&encoder, &diffusion, folder.path());
        let all = json_of(&gateway, "/api/history").await;
        let kept = ids(&all);
        assert_eq!(all["total"], kept.len());
        assert!(kept.first().copied().unwrap_or_default() >= newest, "what was seen is there");
        for id in &kept {
            let url = format!("{}/api/history/{id}/image", gateway.url);
            let file =
                http().get(url).send().await.expect("an answer").bytes().await.expect("a file");
            let picture = image::load_from_memory(&file).expect("a whole picture").into_rgb8();
            assert_eq!(picture.dimensions(), (64, 64), "{id}");
        }
        // Killed as soon as some of these were answered, while others are made and written.
        let mut asked: Vec<_> = (0..12)
            .map(|number| {
                let request = http().post(format!("{}/api/generate", gateway.url));
                let body = json!({"prompt": format!("picture {number}")});
                tokio::spawn(request.json(&body).send())
            })
            .collect();
        for _ in 0..3 {
            let (answer, _, left) = future::select_all(asked).await;
            assert_eq!(answer.expect("no panic").expect("an answer").status(), 200);
            asked = left;
        }
        newest = ids(&json_of(&gateway, "/api/history?limit=1").await)[0];
        gateway.kill();
        // The rest may or may not have been answered.
        future::join_all(asked).await;
    }
    assert!(newest > 4, "ids go on");
}
