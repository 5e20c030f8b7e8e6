//! `/api/loras`, and LoRAs for one picture.

use std::{path::Path, time::Duration};

use diffusion_service::{LorasFolder, ServiceLimits};
use llm_dit_chat::Chat;
use llm_dit_proto::v1::{
    ApplyLorasRequest, GenerateParams, LoraSelection, LoraSet, TensorRole,
    diffusion_client::DiffusionClient,
};
use llm_dit_testkit::{
    fakes::{Control, FakeGenerator, Seen},
    http,
    process::Process,
    servers::{Server, fake_diffusion, fake_encoder, tokenizer},
    wire::{outcome, request},
};
use serde_json::{Value, json};
use tokio::time;

use crate::support::{Gateway, Stack, WIDTH, expected_embeddings, options, problem};

async fn diffusion(folder: &Path) -> (Server, Control) {
    serve(FakeGenerator::free(WIDTH), folder).await
}

async fn serve(fake: (FakeGenerator, Control), folder: &Path) -> (Server, Control) {
    let (handle, control) = fake_diffusion(fake, ServiceLimits::default(), None);
    let folder = LorasFolder::open(folder).expect("a folder");
    (Server::diffusion(handle.with_loras_folder(Some(folder))).await, control)
}

fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    for name in ["ink.safetensors", "clay.safetensors", "misfit.safetensors"] {
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
    assert_eq!(names, ["clay.safetensors", "ink.safetensors", "misfit.safetensors"]);
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
        (json!({"loras": [{"name": "ink.safetensors", "pass": "negative"}]}), 400),
        (json!({"loras": [{"name": "ink.safetensors", "pass": 1}]}), 400),
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
    let ink = json!([{"name": "ink.safetensors", "trigger_words": "ink wash"}]);
    let with = json!({"prompt": "a", "seed": 1, "loras": ink});
    assert_eq!(make(&with).await, ids("ink wash a"));
    assert_eq!(seen(&mut control).await, loras(&["ink.safetensors"]));
    assert_eq!(seen(&mut control).await, Seen::Finished { seed: 1 });
    let none = json!({"active_loras": [], "trigger_words": ""});
    assert_eq!(gateway.json("/api/loras/active").await, none, "it was one request's");
    // The next has the default, which is none.
    assert_eq!(make(&json!({"prompt": "b", "seed": 2})).await, ids("b"));
    assert_eq!(seen(&mut control).await, loras(&[]));
    assert_eq!(seen(&mut control).await, Seen::Finished { seed: 2 });

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
    let misfit = json!({"prompt": "x", "loras": [{"name": "misfit.safetensors"}]});
    let why = problem(gateway.post(&misfit).await, 400).await;
    assert!(why.contains("fits nothing"), "{why}");
    assert_eq!(gateway.post(&json!({"prompt": "f", "seed": 6})).await.status(), 200);
    assert_eq!(seen(&mut control).await, Seen::Finished { seed: 5 });
    assert_eq!(seen(&mut control).await, Seen::Finished { seed: 6 });
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lora_may_be_in_the_pass_of_the_prompt_only() {
    let (folder, data) = (folder(), tempfile::tempdir().expect("a folder"));
    let (encoder, _jobs) = fake_encoder(WIDTH);
    let encoder = Server::encoder(encoder).await;
    let (diffusion, mut control) = diffusion(folder.path()).await;
    let gateway = start(&encoder, &diffusion, data.path());
    let body = |pass: Value| {
        let lora = json!({"name": "ink.safetensors", "scale": 0.5, "pass": pass});
        json!({"prompt": "a", "seed": 1, "guidance_scale": 1.5, "loras": [lora]})
    };
    let recipe = async |body: &Value| {
        let request = http().post(format!("{}/api/generate", gateway.url)).json(body);
        let response = request.send().await.expect("an answer");
        assert_eq!(response.status(), 200, "{body}");
        let file = response.bytes().await.expect("a picture");
        llm_dit_recipe::read(file).expect("ours").expect("a recipe").loras
    };
    let one = recipe(&body(json!("positive"))).await;
    assert_eq!(one[0].pass.as_deref(), Some("positive"));
    for default in [json!("both"), json!(null)] {
        assert_eq!(recipe(&body(default)).await[0].pass, None);
    }
    for _ in 0..2 {
        assert_eq!(seen(&mut control).await, loras(&["ink.safetensors"]), "fused for each pass");
        assert_eq!(seen(&mut control).await, Seen::Finished { seed: 1 });
    }
    assert_eq!(seen(&mut control).await, Seen::Finished { seed: 1 }, "the default is as it was");
    for pass in ["negative", ""] {
        let request = http().post(format!("{}/api/generate", gateway.url));
        let response = request.json(&body(json!(pass))).send().await.expect("an answer");
        assert_eq!(response.status(), 400);
        let why = response.text().await.expect("a problem");
        assert!(why.contains(&format!("'{pass}'")) && why.contains("both or positive"), "{why}");
    }

    // As a default set, which is kept.
    let all = json!({"loras": body(json!("positive"))["loras"]});
    assert_eq!(post(&gateway, "/api/loras/apply", &all).await, 200);
    let active = json_of(&gateway, "/api/loras/active").await;
    assert_eq!(active["active_loras"][0]["pass"], "positive");
    let default = json!({"prompt": "b", "seed": 2, "guidance_scale": 1.5});
    assert_eq!(recipe(&default).await[0].pass.as_deref(), Some("positive"));
    gateway.kill();
    let gateway = start(&encoder, &diffusion, data.path());
    assert_eq!(json_of(&gateway, "/api/loras/active").await, active);
}

/// A gateway that keeps what it knows, in a process of its own, which can be killed.
fn start(encoder: &Server, diffusion: &Server, history: &Path) -> Process {
    let history = history.to_str().expect("a path of text");
    let args = ["--encoder", &encoder.url, "--diffusion", &diffusion.url, "--history", history];
    Process::start("gateway", &args)
}

async fn post(gateway: &Process, path: &str, body: &Value) -> u16 {
    let request = http().post(format!("{}{path}", gateway.url)).json(body);
    request.send().await.expect("an answer").status().as_u16()
}

async fn json_of(gateway: &Process, path: &str) -> Value {
    let response = http().get(format!("{}{path}", gateway.url)).send().await.expect("an answer");
    response.json().await.expect("JSON")
}

#[tokio::test(flavor = "multi_thread")]
async fn the_default_set_survives_the_gateway_and_the_service() {
    let (folder, data) = (folder(), tempfile::tempdir().expect("a folder"));
    let (encoder, _jobs) = fake_encoder(WIDTH);
    let encoder = Server::encoder(encoder).await;
    let (first, _control) = diffusion(folder.path()).await;
    let gateway = start(&encoder, &first, data.path());
    let clay = json!({"loras": [{"name": "clay.safetensors", "trigger_words": "clay"}]});
    assert_eq!(post(&gateway, "/api/loras/apply", &clay).await, 200);
    let applied = json_of(&gateway, "/api/loras/active").await;
    let ink = json!({"prompt": "a", "seed": 1, "loras": [{"name": "ink.safetensors"}]});
    assert_eq!(post(&gateway, "/api/generate", &ink).await, 200);
    gateway.kill();

    // A service that knows nothing of it, as after a restart.
    let (second, mut control) = diffusion(folder.path()).await;
    let gateway = start(&encoder, &second, data.path());
    assert_eq!(json_of(&gateway, "/api/loras/active").await, applied);
    assert_eq!(json_of(&gateway, "/api/loras").await["active"], applied["active_loras"]);
    let default = json!({"prompt": "b", "seed": 2});
    assert_eq!(post(&gateway, "/api/generate", &default).await, 200);
    assert_eq!(seen(&mut control).await, loras(&["clay.safetensors"]));
    assert_eq!(seen(&mut control).await, Seen::Finished { seed: 2 });
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_keeps_the_default_that_it_was_accepted_with() {
    let (folder, data) = (folder(), tempfile::tempdir().expect("a folder"));
    let (encoder, _jobs) = fake_encoder(WIDTH);
    let encoder = Server::encoder(encoder).await;
    let (slow, _gate) = serve(FakeGenerator::gated(WIDTH), folder.path()).await;
    let gateway = start(&encoder, &slow, data.path());
    let ink = json!([{"name": "ink.safetensors", "scale": 0.5}]);
    for body in [json!({"prompt": "a", "seed": 1}), json!({"prompt": "b", "seed": 2, "loras": ink})]
    {
        assert_eq!(post(&gateway, "/api/jobs", &body).await, 202);
    }
    gateway.kill();

    let (quick, mut control) = diffusion(folder.path()).await;
    let selection = LoraSelection { name: "clay.safetensors".to_owned(), ..Default::default() };
    let clay = ApplyLorasRequest { loras: vec![selection] };
    DiffusionClient::new(quick.channel()).apply_loras(clay).await.expect("applied");
    assert_eq!(seen(&mut control).await, loras(&["clay.safetensors"]));
    let _gateway = start(&encoder, &quick, data.path());
    assert_eq!(seen(&mut control).await, loras(&[]), "the default when it was accepted");
    assert_eq!(seen(&mut control).await, Seen::Finished { seed: 1 });
    assert_eq!(seen(&mut control).await, loras(&["ink.safetensors"]));
    assert_eq!(seen(&mut control).await, Seen::Finished { seed: 2 });
}

/// Two gateways and one client without, each with LoRAs of its own, before one service: each
/// picture is the one that was made when nobody else was there.
#[tokio::test(flavor = "multi_thread")]
async fn nobody_gets_the_loras_of_another() {
    const PICTURES: usize = 24;
    let folder = folder();
    let (encoder, _jobs) = fake_encoder(WIDTH);
    let encoder = Server::encoder(encoder).await;
    let (diffusion, _control) = diffusion(folder.path()).await;
    let options = || options(&[&encoder.url], &[&diffusion.url]);
    let gateways = [Gateway::with(options()).await, Gateway::with(options()).await];
    let sets = [
        json!(null),
        json!([{"name": "ink.safetensors"}]),
        json!([{"name": "clay.safetensors", "scale": 0.5}, {"name": "ink.safetensors"}]),
    ];
    let over_http = async |gateway: &Gateway, set: &Value| {
        let response = gateway.post(&json!({"prompt": "a fox", "seed": 1, "loras": set})).await;
        assert_eq!(response.status(), 200);
        response.bytes().await.expect("a picture")
    };
    let over_grpc = async |set: &Value| {
        let embeddings = expected_embeddings(WIDTH, &Chat::user("a fox"));
        let loras = set.as_array().map(|loras| LoraSet {
            loras: loras
                .iter()
                .map(|lora| LoraSelection {
                    name: lora["name"].as_str().expect("text").to_owned(),
                    scale: lora["scale"].as_f64().map(|scale| scale as f32),
                    trigger_words: String::new(),
                    blocks: Default::default(),
                    pass: None,
                })
                .collect(),
        });
        let params = GenerateParams { seed: Some(1), loras, ..Default::default() };
        let request = request(params, &[(TensorRole::Embeddings, &embeddings)]);
        let events = DiffusionClient::new(diffusion.channel()).generate(request).await;
        let made = outcome(events.expect("accepted").into_inner()).await.expect("well");
        made.image
    };
    let (mut by_http, mut by_grpc) = (Vec::new(), Vec::new());
    for set in &sets {
        by_http.push(over_http(&gateways[0], set).await);
        by_grpc.push(over_grpc(set).await);
    }
    assert!(by_http[0] != by_http[1] && by_http[1] != by_http[2] && by_http[0] != by_http[2]);
    let all = (0..PICTURES).map(async |n| {
        let set = n / 3 % sets.len();
        match n % 3 {
            2 => assert!(over_grpc(&sets[set]).await == by_grpc[set], "picture {n}"),
            door => assert!(over_http(&gateways[door], &sets[set]).await == by_http[set], "{n}"),
        }
    });
    futures::future::join_all(all).await;
    let none = json!({"active_loras": [], "trigger_words": ""});
    assert_eq!(gateways[0].json("/api/loras/active").await, none);
}

/// A client that hangs up takes nothing with it and leaves nothing behind.
#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_is_given_up_leaves_no_loras_behind() {
    let folder = folder();
    let (encoder, _jobs) = fake_encoder(WIDTH);
    let encoder = Server::encoder(encoder).await;
    let (diffusion, _control) = diffusion(folder.path()).await;
    let gateway = Gateway::with(options(&[&encoder.url], &[&diffusion.url])).await;
    let default = json!({"prompt": "a fox", "seed": 7});
    let picture = async || gateway.post(&default).await.bytes().await.expect("a picture");
    let expected = picture().await;
    for milliseconds in 0..20 {
        let with = json!({"prompt": "x", "seed": 9, "loras": [{"name": "ink.safetensors"}]});
        let given_up = gateway.post(&with);
        let _ = time::timeout(Duration::from_millis(2 * milliseconds), given_up).await;
        assert_eq!(picture().await, expected, "after {milliseconds} ms");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_folder_there_are_no_loras() {
    let stack = Stack::start().await;
    problem(stack.gateway.get("/api/loras").await, 501).await;
    let body = json!({"loras": [{"name": "ink.safetensors"}]});
    problem(stack.gateway.post_to("/api/loras/apply", &body).await, 501).await;
    assert_eq!(stack.gateway.post_to("/api/loras/clear", &json!({})).await.status(), 200);
}
