//! Embeddings that are remembered, and when they are not.

use encoder_service::{EncoderHandle, EncoderLimits};
use gateway::KeepOptions;
use llm_dit_chat::Chat;
use llm_dit_heylook::{HeylookEncoder, HeylookOptions};
use llm_dit_proto::DType;
use llm_dit_testkit::{
    fakes::{
        FakeEncoder, FakeHeylook,
        heylook::{self, Reply},
    },
    servers::{Server, tokenizer},
};
use serde_json::json;
use tokio::net::TcpListener;

use crate::support::{Gateway, Stack, WIDTH, expected_embeddings, options};

#[tokio::test(flavor = "multi_thread")]
async fn the_same_prompt_is_encoded_once() {
    let mut stack = Stack::start().await;
    let body =
        json!({"prompt": "a fox", "seed": 1, "guidance_scale": 1, "negative_prompt": "blurry"});
    let first = stack.gateway.post(&body).await.bytes().await.expect("a picture");
    assert!(stack.jobs.recv().await.is_some() && stack.jobs.recv().await.is_some());
    let again = stack.gateway.post(&body).await.bytes().await.expect("a picture");
    assert_eq!(first, again);
    assert!(stack.jobs.try_recv().is_err(), "nothing was encoded");

    // One of the two is new.
    let body =
        json!({"prompt": "a fox", "seed": 1, "guidance_scale": 1, "negative_prompt": "dark"});
    assert_eq!(stack.gateway.post(&body).await.status(), 200);
    let job = stack.jobs.recv().await.expect("a job");
    let dark = tokenizer().tokenize(&llm_dit_chat::Chat::user("dark"), 512).expect("fits").ids;
    assert_eq!(job.token_ids, dark);
    assert!(stack.jobs.try_recv().is_err());

    let stats = &stack.gateway.json("/health").await["embedding_cache"];
    assert_eq!(
        (&stats["entries"], &stats["hits"], &stats["misses"]),
        (&json!(3), &json!(3), &json!(3))
    );
    assert!(stats["bytes"].as_u64().expect("a number") > 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_that_determines_embeddings_tells_them_apart() {
    let mut stack = Stack::start().await;
    for body in [
        json!({"prompt": "a <think> fox"}),
        json!({"prompt": "a <think> fox", "raw_special_tokens": true}),
        json!({"prompt": "a <think> fox", "hidden_layer": -3}),
        json!({"prompt": "a <think> fox", "max_tokens": 11}),
        json!({"prompt": "a <think> fox", "max_tokens": 11, "truncate": "end"}),
        json!({"prompt": "a <think> fox", "system_prompt": "S"}),
        json!({"prompt": "a <think> fox", "enable_thinking": true}),
        json!({"prompt": "a <think> fox "}),
    ] {
        for _ in 0..2 {
            assert_eq!(stack.gateway.post(&body).await.status(), 200, "{body}");
        }
        assert!(stack.jobs.recv().await.is_some(), "{body}");
        assert!(stack.jobs.try_recv().is_err(), "{body}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn with_no_room_every_prompt_is_encoded() {
    let Stack { encoder, mut jobs, diffusion, control: _control, .. } = Stack::start().await;
    let mut options = options(&[&encoder.url], &[&diffusion.url]);
    options.keep = KeepOptions { embedding_cache_bytes: 0, ..Default::default() };
    let gateway = Gateway::with(options).await;
    for _ in 0..2 {
        assert_eq!(gateway.post(&json!({"prompt": "a fox"})).await.status(), 200);
        assert!(jobs.recv().await.is_some());
    }
}

/// It may have come back with other weights under the same name.
#[tokio::test(flavor = "multi_thread")]
async fn what_an_encoder_computed_is_forgotten_when_it_was_gone() {
    let Stack { encoder, mut jobs, diffusion, control: _control, gateway } = Stack::start().await;
    let body = json!({"prompt": "a fox"});
    assert_eq!(gateway.post(&body).await.status(), 200);
    assert!(jobs.recv().await.is_some());
    let address = encoder.url.trim_start_matches("http://").to_owned();
    encoder.stop().await;
    assert_eq!(gateway.get("/health").await.status(), 503, "the gateway knows");
    let listener = TcpListener::bind(&address).await.expect("the port is free again");
    let (engine, mut jobs) = FakeEncoder::new(WIDTH);
    let handle = EncoderHandle::spawn(Box::new(engine), tokenizer(), EncoderLimits::default());
    let handle = handle.expect("a thread");
    let _again =
        Server::start(|_, shutdown| encoder_service::run(listener, handle, shutdown)).await;
    assert_eq!(gateway.get("/health").await.status(), 200);
    assert_eq!(gateway.post(&body).await.status(), 200);
    assert_eq!(jobs.recv().await.expect("encoded again").dtype, DType::F32);
    drop(diffusion);
}

/// What an encoder service says of heylookitsanllm changes with the first answer; the prompt does not.
#[tokio::test(flavor = "multi_thread")]
async fn the_first_prompt_of_an_encoder_elsewhere_is_remembered() {
    let chat = Chat::user("a red apple");
    let fake = FakeHeylook::replaying(&[]).await;
    // In f32, where bf16 is supposed.
    let answer = heylook::hidden_states(&expected_embeddings(WIDTH, &chat), "Qwen3-4B", -2);
    let head = "content-type: application/json\r\n";
    let reply = Reply::Bytes(heylook::response("200 OK", head, &answer));
    fake.answer(&heylook::body(&chat.render(), "Qwen3-4B", -2, 100), reply);
    let encoder = HeylookEncoder::new(&fake.url, "Qwen3-4B", HeylookOptions::default());
    let handle = EncoderHandle::heylook(encoder.expect("valid"), EncoderLimits::default());
    let encoder = Server::encoder(handle.expect("a thread")).await;
    let Stack { diffusion, control: _control, .. } = Stack::start().await;
    let gateway = Gateway::with(options(&[&encoder.url], &[&diffusion.url])).await;
    for _ in 0..2 {
        let response = gateway.post(&json!({"prompt": "a red apple", "seed": 1})).await;
        assert_eq!(response.status(), 200);
    }
    assert_eq!(fake.requests().len(), 1);
}
