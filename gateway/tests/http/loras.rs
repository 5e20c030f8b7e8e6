//! `/api/loras`, and LoRAs for one picture.

use std::path::Path;

use diffusion_service::{LorasFolder, ServiceLimits};
use llm_dit_chat::Chat;
use llm_dit_testkit::{
    fakes::{Control, FakeGenerator, Seen, lora_summary},
    servers::{Server, fake_diffusion, fake_encoder, tokenizer},
};
use serde_json::{Value, json};

use crate::support::{Gateway, Stack, WIDTH, options, problem};

async fn diffusion(folder: &Path) -> (Server, Control) {
    let fake = FakeGenerator::free(WIDTH);
    let (handle, control) = fake_diffusion(fake, ServiceLimits::default(), None);
    let folder = LorasFolder::open(folder, lora_summary).expect("a folder");
    (Server::diffusion(handle.with_loras_folder(Some(folder))).await, control)
}

fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    for name in ["ink.safetensors", "clay.safetensors"] {
        std::fs::write(folder.path().join(name), b"the fake does not look").expect("writes");
    }
    folder
}

/// What the engine did about LoRAs, and the pictures between.
async fn seen(control: &mut Control) -> Seen {
    loop {
        let seen = control.seen().await;
        if matches!(seen, Seen::Loras(_) | Seen::Finished { .. }) {
            return seen;
        }
    }
}

fn loras(names: &[&str]) -> Seen {
    Seen::Loras(names.iter().map(|name| (*name).to_owned()).collect())
}

#[tokio::test(flavor = "multi_thread")]
async fn loras_are_listed_applied_everywhere_and_cleared() {
    let folder = folder();
    let (encoder, _jobs) = fake_encoder(WIDTH);
    let encoder = Server::encoder(encoder).await;
    let ((one, mut first), (two, mut second)) =
        (diffusion(folder.path()).await, diffusion(folder.path()).await);
    let gateway = Gateway::with(options(&[&encoder.url], &[&one.url, &two.url])).await;
    let listed = gateway.json("/api/loras").await;
    let names: Vec<&Value> =
        listed["loras"].as_array().expect("an array").iter().map(|l| &l["name"]).collect();
    assert_eq!(names, ["clay.safetensors", "ink.safetensors"]);
    assert_eq!((&listed["active"], &listed["loras"][0]["active"]), (&json!([]), &json!(false)));

    let body = json!({"loras": [
        {"path": "ink.safetensors", "scale": 0.5, "trigger_words": "ink wash"},
        {"name": "clay.safetensors", "enabled": false},
    ]});
    let applied = gateway.post_to("/api/loras/apply", &body).await;
    assert_eq!(applied.status(), 200);
    let applied: Value = applied.json().await.expect("JSON");
    assert_eq!((&applied["success"], &applied["active_count"]), (&json!(true), &json!(1)));
    assert_eq!(
        (&applied["layers_updated"], &applied["trigger_words"]),
        (&json!(1), &json!("ink wash"))
    );
    for control in [&mut first, &mut second] {
        assert_eq!(seen(control).await, loras(&["ink.safetensors"]));
    }
    let active = gateway.json("/api/loras/active").await;
    assert_eq!(
        (&active["active_loras"][0]["scale"], &active["trigger_words"]),
        (&json!(0.5), &json!("ink wash"))
    );
    let cleared = gateway.post_to("/api/loras/clear", &json!({})).await;
    assert_eq!(cleared.status(), 200);
    assert_eq!(
        gateway.json("/api/loras/active").await,
        json!({"active_loras": [], "trigger_words": ""})
    );

    for (body, status) in [
        (json!({"loras": [{"name": "none.safetensors"}]}), 404),
        (json!({"loras": [{"name": "../ink.safetensors"}]}), 400),
        (json!({"loras": 7}), 400),
        (json!({}), 400),
        (json!({"loras": [], "more": 1}), 400),
    ] {
        problem(gateway.post_to("/api/loras/apply", &body).await, status).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_picture_may_have_loras_of_its_own() {
    let folder = folder();
    let (encoder, mut jobs) = fake_encoder(WIDTH);
    let encoder = Server::encoder(encoder).await;
    let (diffusion, mut control) = diffusion(folder.path()).await;
    let gateway = Gateway::with(options(&[&encoder.url], &[&diffusion.url])).await;
    let mut make = async |body: &Value| {
        let response = gateway.post(body).await;
        assert_eq!(response.status(), 200, "{body}");
        jobs.recv().await.expect("a job").token_ids
    };
    let ids = |text: &str| tokenizer().tokenize(&Chat::user(text), 512).expect("fits").ids;
    let with = json!({
        "prompt": "a", "seed": 1,
        "loras": [{"name": "ink.safetensors", "trigger_words": "ink wash"}],
    });
    assert_eq!(make(&with).await, ids("ink wash a"));
    assert_eq!(seen(&mut control).await, loras(&["ink.safetensors"]));
    assert_eq!(seen(&mut control).await, Seen::Finished { seed: 1 });
    // The next has what was there before, without being asked.
    assert_eq!(make(&json!({"prompt": "b", "seed": 2})).await, ids("b"));
    assert_eq!(seen(&mut control).await, loras(&[]));
    assert_eq!(seen(&mut control).await, Seen::Finished { seed: 2 });

    // And what everybody has comes back as well.
    let all = json!({"loras": [{"name": "clay.safetensors", "trigger_words": "clay"}]});
    assert_eq!(gateway.post_to("/api/loras/apply", &all).await.status(), 200);
    assert_eq!(seen(&mut control).await, loras(&["clay.safetensors"]));
    assert_eq!(make(&json!({"prompt": "c", "seed": 3})).await, ids("clay c"));
    assert_eq!(seen(&mut control).await, Seen::Finished { seed: 3 });
    assert_eq!(make(&json!({"prompt": "d", "seed": 4, "loras": []})).await, ids("d"));
    assert_eq!(seen(&mut control).await, loras(&[]));
    assert_eq!(seen(&mut control).await, Seen::Finished { seed: 4 });
    assert_eq!(make(&json!({"prompt": "e", "seed": 5})).await, ids("clay e"));
    assert_eq!(seen(&mut control).await, loras(&["clay.safetensors"]));

    let missing = json!({"prompt": "x", "loras": [{"name": "none.safetensors"}]});
    problem(gateway.post(&missing).await, 404).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_folder_there_are_no_loras() {
    let stack = Stack::start().await;
    problem(stack.gateway.get("/api/loras").await, 501).await;
    let body = json!({"loras": [{"name": "ink.safetensors"}]});
    problem(stack.gateway.post_to("/api/loras/apply", &body).await, 501).await;
    assert_eq!(stack.gateway.post_to("/api/loras/clear", &json!({})).await.status(), 200);
}
