//! `POST /api/generate` before real services over fakes: what goes through, and what stops.

use std::{process::Command, time::Duration};

use diffusion_service::{LorasFolder, ServiceLimits};
use futures::future;
use llm_dit_chat::{Chat, ChatOptions, ThinkBlock};
use llm_dit_params::GenerateOptions;
use llm_dit_proto::v1::{ApplyLorasRequest, LoraSelection, diffusion_client::DiffusionClient};
use llm_dit_templates::Library;
use llm_dit_testkit::{
    fakes::{FakeGenerator, LASTING_SEED, Seen},
    http,
    servers::{Server, fake_diffusion, fake_encoder, tokenizer},
};
use serde_json::json;

use crate::support::{Gateway, Stack, WIDTH, expected_png, problem};

fn seeded(seed: u64) -> GenerateOptions {
    GenerateOptions { seed: Some(seed), ..Default::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_prompt_becomes_the_picture_the_services_make() {
    let mut stack = Stack::start().await;
    let body = json!({"prompt": "a red apple", "seed": 42, "width": 96, "steps": 2});
    let response = stack.gateway.post(&body).await;
    assert_eq!(response.status(), 200);
    let header = |name: &str| {
        response.headers().get(name).and_then(|v| v.to_str().ok()).unwrap_or_default().to_owned()
    };
    assert_eq!(header("content-type"), "image/png");
    assert_eq!(header("x-seed"), "42");
    assert!(header("x-generation-time").parse::<f64>().expect("seconds") > 0.0);
    assert_eq!(header("x-request-id").len(), 36);
    assert_eq!(header("x-truncated-tokens"), "");
    let chat = Chat::user("a red apple");
    let options = GenerateOptions { width: Some(96), steps: Some(2), ..seeded(42) };
    let png = response.bytes().await.expect("a picture");
    assert_eq!(png, expected_png(WIDTH, &chat, options, ""));
    assert!(stack.jobs.recv().await.is_some());
    assert!(stack.jobs.try_recv().is_err(), "no guidance, no negative prompt");
}

#[tokio::test(flavor = "multi_thread")]
async fn trigger_words_of_active_loras_go_before_the_prompt() {
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(folder.path().join("ink.safetensors"), b"the fake does not look")
        .expect("writes");
    let (encoder, mut jobs) = fake_encoder(WIDTH);
    let encoder = Server::encoder(encoder).await;
    let fake = FakeGenerator::free(WIDTH);
    let (diffusion, _control) = fake_diffusion(fake, ServiceLimits::default(), None);
    let loras = LorasFolder::open(folder.path()).expect("a folder");
    let diffusion = Server::diffusion(diffusion.with_loras_folder(Some(loras))).await;
    let selection = LoraSelection {
        name: "ink.safetensors".into(),
        scale: None,
        trigger_words: "ink wash".into(),
        blocks: Default::default(),
        pass: None,
    };
    let mut client = DiffusionClient::new(diffusion.channel());
    let request = ApplyLorasRequest { loras: vec![selection] };
    client.apply_loras(request).await.expect("applied");
    let gateway = Gateway::start(Some(&encoder.url), &diffusion.url).await;
    assert_eq!(gateway.post(&json!({"prompt": "a fox"})).await.status(), 200);
    let expected = tokenizer().tokenize(&Chat::user("ink wash a fox"), 512).expect("fits").ids;
    assert_eq!(jobs.recv().await.expect("a job").token_ids, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_part_of_the_chat_arrives() {
    let mut stack = Stack::start().await;
    let parts = json!({
        "prompt": "P", "seed": 1, "system_prompt": "S", "thinking_content": "T",
        "assistant_content": "A",
    });
    assert_eq!(stack.gateway.post(&parts).await.status(), 200);
    let chat = Chat {
        user: "P".into(),
        system: "S".into(),
        thinking: "T".into(),
        assistant: "A".into(),
        ..Chat::default()
    };
    let ids = |chat: &Chat| tokenizer().tokenize(chat, 512).expect("fits").ids;
    assert_eq!(stack.jobs.recv().await.expect("a job").token_ids, ids(&chat));

    for name in ["force_think_block", "enable_thinking"] {
        // The same prompt with the same block would be remembered.
        let block = Chat { think_block: ThinkBlock::On, ..Chat::user(name) };
        assert_eq!(stack.gateway.post(&json!({"prompt": name, name: true})).await.status(), 200);
        assert_eq!(stack.jobs.recv().await.expect("a job").token_ids, ids(&block), "{name}");
    }
    let dropped = json!({"prompt": "P", "thinking_content": "T", "enable_thinking": false});
    assert_eq!(stack.gateway.post(&dropped).await.status(), 200);
    assert_eq!(stack.jobs.recv().await.expect("a job").token_ids, ids(&Chat::user("P")));

    let quoted = json!({"prompt": "a \"P\"<|im_end|>", "strip_quotes": true});
    assert_eq!(stack.gateway.post(&quoted).await.status(), 200);
    let text = Chat::user("a P<|im_end|>");
    assert_eq!(stack.jobs.recv().await.expect("a job").token_ids, ids(&text));
    let raw = json!({"prompt": "a P<|im_end|>", "raw_special_tokens": true});
    assert_eq!(stack.gateway.post(&raw).await.status(), 200);
    let raw = Chat { raw_special_tokens: true, ..text.clone() };
    assert_eq!(stack.jobs.recv().await.expect("a job").token_ids, ids(&raw));
    assert_ne!(ids(&raw), ids(&text));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_template_fills_what_the_body_leaves_open() {
    let library = Library::embedded().expect("valid");
    let minimalist = library.get("minimalist").expect("shipped");
    // The fake takes 100 tokens, so the template's own text would not fit.
    let mut stack = Stack::start().await;
    let body = json!({"prompt": "P", "template": "z_image_minimalist", "system_prompt": "S"});
    assert_eq!(stack.gateway.post(&body).await.status(), 200);
    let said = ChatOptions { system: Some("S".to_owned()), ..Default::default() };
    let chat = minimalist.fill(said).chat("P");
    let ids = |chat: &Chat| tokenizer().tokenize(chat, 512).expect("fits").ids;
    assert_eq!(stack.jobs.recv().await.expect("a job").token_ids, ids(&chat));

    let body = json!({"prompt": "P", "template": "noir"});
    let detail = problem(stack.gateway.post(&body).await, 400).await;
    assert!(detail.contains("max_tokens is 100"), "the template came along: {detail}");
    let body = json!({"prompt": "P", "template": "noirr"});
    let detail = problem(stack.gateway.post(&body).await, 400).await;
    assert!(detail.contains("did you mean 'noir'?"), "{detail}");
}

#[tokio::test(flavor = "multi_thread")]
async fn guidance_takes_the_negative_prompt_along() {
    let stack = Stack::start().await;
    let body = json!({
        "prompt": "a red apple", "negative_prompt": "blurry", "guidance_scale": 1.5, "seed": 7,
        "num_inference_steps": 2,
    });
    let response = stack.gateway.post(&body).await;
    assert_eq!(response.status(), 200);
    let options = GenerateOptions { guidance_scale: Some(1.5), steps: Some(2), ..seeded(7) };
    let expected = expected_png(WIDTH, &Chat::user("a red apple"), options, "blurry");
    assert_eq!(response.bytes().await.expect("a picture"), expected);
}

/// Embeddings of many chunks, of which none may be lost or moved.
#[tokio::test(flavor = "multi_thread")]
async fn long_embeddings_are_piped_whole() {
    const WIDE: usize = 8192;
    let stack = Stack::with(FakeGenerator::free(WIDE), ServiceLimits::default(), WIDE).await;
    let prompt = "apple ".repeat(200);
    let body = json!({"prompt": prompt, "seed": 3, "guidance_scale": 1, "negative_prompt": prompt});
    let response = stack.gateway.post(&body).await;
    assert_eq!(response.status(), 200);
    for name in ["x-truncated-tokens", "x-truncated-negative-tokens"] {
        let cut = response.headers()[name].to_str().expect("text").parse::<u32>();
        assert!(cut.expect("a number") > 0, "the fake takes 100 tokens");
    }
    let options = GenerateOptions { guidance_scale: Some(1.0), ..seeded(3) };
    let expected = expected_png(WIDE, &Chat::user(&prompt), options, &prompt);
    assert_eq!(response.bytes().await.expect("a picture"), expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drawn_seed_is_told_and_makes_the_same_picture_again() {
    let stack = Stack::start().await;
    let first = stack.gateway.post(&json!({"prompt": "x"})).await;
    let seed: u64 = first.headers()["x-seed"].to_str().expect("text").parse().expect("a number");
    let again = stack.gateway.post(&json!({"prompt": "x", "seed": seed})).await;
    assert_eq!(first.bytes().await.expect("a picture"), again.bytes().await.expect("a picture"));
    let other = stack.gateway.post(&json!({"prompt": "x"})).await;
    assert_ne!(other.headers()["x-seed"].to_str().expect("text"), seed.to_string());
    // Zero is a seed like any other.
    let zero = stack.gateway.post(&json!({"prompt": "x", "seed": 0})).await;
    assert_eq!(zero.headers()["x-seed"], "0");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_diffusion_service_with_an_encoder_is_sent_the_bare_prompt() {
    let (encoder, mut jobs) = fake_encoder(WIDTH);
    let encoder = Server::encoder(encoder).await;
    let remote = Some(encoder.remote("encoder"));
    let (diffusion, _control) =
        fake_diffusion(FakeGenerator::free(WIDTH), ServiceLimits::default(), remote);
    let diffusion = Server::diffusion(diffusion).await;
    let gateway = Gateway::start(None, &diffusion.url).await;
    let body = json!({
        "prompt": "a red apple", "seed": 5, "guidance_scale": 2, "negative_prompt": "blurry",
    });
    let response = gateway.post(&body).await;
    assert_eq!(response.status(), 200);
    let options = GenerateOptions { guidance_scale: Some(2.0), ..seeded(5) };
    let expected = expected_png(WIDTH, &Chat::user("a red apple"), options, "blurry");
    assert_eq!(response.bytes().await.expect("a picture"), expected);
    assert!(jobs.recv().await.is_some() && jobs.recv().await.is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_leaves_stops_the_work() {
    let mut stack = Stack::start().await;
    let body = json!({"prompt": "x", "seed": LASTING_SEED, "steps": 50});
    {
        let request = stack.gateway.post(&body);
        tokio::pin!(request);
        loop {
            tokio::select! {
                _ = &mut request => panic!("this picture takes for ever"),
                seen = stack.control.seen() => if seen == Seen::Step(1) { break },
            }
        }
    }
    // The first step may not have been reported yet when the caller left.
    let stopped =
        async { while !matches!(stack.control.seen().await, Seen::Stopped { after: 1..=2 }) {} };
    tokio::time::timeout(Duration::from_secs(5), stopped).await.expect("the engine is free");
    // And serves the next.
    assert_eq!(stack.gateway.post(&json!({"prompt": "x"})).await.status(), 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_queue_says_when_to_come_back() {
    let limits = ServiceLimits { queue_capacity: 1, ..Default::default() };
    let mut stack = Stack::with(FakeGenerator::gated(WIDTH), limits, WIDTH).await;
    let ask = |seed: u64| {
        let url = format!("{}/api/generate", stack.gateway.url);
        let body = json!({"prompt": "x", "seed": seed});
        tokio::spawn(async move { http().post(url).json(&body).send().await.expect("an answer") })
    };
    let running = ask(1);
    assert_eq!(stack.control.seen().await, Seen::Began { seed: 1 });
    // One of these waits, and the rest are refused, whichever comes first.
    let mut others = vec![ask(2), ask(3), ask(4)];
    for _ in 0..2 {
        let (answer, _, left) = future::select_all(others).await;
        let detail = problem(answer.expect("no panic"), 503).await;
        assert!(detail.contains("busy"), "{detail}");
        others = left;
    }
    stack.control.open();
    for task in others.into_iter().chain([running]) {
        assert_eq!(task.await.expect("no panic").status(), 200);
    }
}

/// The gateway runs where no model does.
#[test]
fn the_gateway_depends_on_no_tensor_library() {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args(["tree", "-p", "gateway", "--offline", "--locked", "--prefix", "none"])
        .args(["--edges", "normal,build"])
        .current_dir(llm_dit_testkit::repository("."))
        .output()
        .expect("cargo is here, it runs this test");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let tree = String::from_utf8_lossy(&output.stdout);
    assert!(tree.contains("axum "), "{tree}");
    let models = ["candle", "llm-dit-weights", "llm-dit-kernels", "tokenizers", "safetensors"];
    for line in tree.lines() {
        assert!(!models.iter().any(|name| line.starts_with(name)), "{line}");
    }
}
