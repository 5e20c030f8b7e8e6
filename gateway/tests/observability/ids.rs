//! Request ids: one name in every log, and in every answer.

use gateway::GatewayOptions;
use llm_dit_chat::Chat;
use llm_dit_heylook::{HeylookEncoder, HeylookOptions};
use llm_dit_proto::v1::{DescribeEncoderRequest, EncodeRequest, encoder_client::EncoderClient};
use llm_dit_testkit::{
    fakes::{
        FAILING_SEED, FakeHeylook,
        heylook::{self, Reply},
    },
    http,
};
use reqwest::Response;
use serde_json::{Value, json};
use tonic::{Request, metadata::MetadataMap};

use crate::{
    support::{Events, Gateway, Stack, WIDTH, expected_embeddings, options},
    turn,
};

async fn ask(gateway: &Gateway, id: &str, accept: &str, seed: u64) -> Response {
    let request = http().post(format!("{}/api/generate", gateway.url));
    let request = request.header("x-request-id", id).header("accept", accept);
    let body = json!({"prompt": "a fox", "seed": seed});
    request.json(&body).send().await.expect("an answer")
}

fn id(metadata: &MetadataMap) -> &str {
    metadata.get("x-request-id").expect("an id").to_str().expect("text")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clients_id_comes_back_with_pictures_and_problems() {
    let _turn = turn().await;
    let stack = Stack::start().await;
    let response = ask(&stack.gateway, "mine-1", "image/png", 1).await;
    assert_eq!(response.status(), 200);
    assert_eq!(response.headers()["x-request-id"], "mine-1");
    let response = ask(&stack.gateway, "mine-2", "image/png", FAILING_SEED).await;
    assert_eq!(response.headers()["x-request-id"], "mine-2");
    let problem: Value = response.json().await.expect("JSON");
    assert_eq!((&problem["status"], &problem["request_id"]), (&json!(500), &json!("mine-2")));
    // In the middle of a stream there is no header left to say it.
    let events = ask(&stack.gateway, "mine-3", "text/event-stream", FAILING_SEED).await;
    let last = Events::new(events).rest().await.pop().expect("an end");
    assert_eq!((&*last.name, &last.data["request_id"]), ("error", &json!("mine-3")));
    // A job goes on under the id of the request that created it.
    let request = http().post(format!("{}/api/jobs", stack.gateway.url));
    let request = request.header("x-request-id", "mine-4");
    let job = request.json(&json!({"prompt": "a fox", "seed": FAILING_SEED})).send().await;
    let job: Value = job.expect("an answer").json().await.expect("JSON");
    let job = format!("/api/jobs/{}", job["id"].as_str().expect("an id"));
    stack.gateway.get(&format!("{job}/events")).await.bytes().await.expect("all events");
    assert_eq!(stack.gateway.json(&job).await["error"]["request_id"], "mine-4");
    // Somewhere in a log it would be two lines, or no line at all.
    for odd in ["a b", "x\"y", &"x".repeat(200)] {
        let response = ask(&stack.gateway, odd, "image/png", 1).await;
        assert_eq!(response.headers()["x-request-id"].len(), 36, "{odd}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn grpc_answers_carry_it_as_metadata() {
    let _turn = turn().await;
    let stack = Stack::start().await;
    let mut client = EncoderClient::new(stack.encoder.channel());
    let mut request = Request::new(DescribeEncoderRequest {});
    request.metadata_mut().insert("x-request-id", "mine".parse().expect("text"));
    let answer = client.describe(request).await.expect("well");
    assert_eq!(id(answer.metadata()), "mine");
    let mut request = Request::new(EncodeRequest::default());
    request.metadata_mut().insert("x-request-id", "mine too".parse().expect("text"));
    let error = client.encode(request).await.expect_err("no prompt");
    assert_eq!(id(error.metadata()).len(), 36, "with a space it is replaced");
}

#[tokio::test(flavor = "multi_thread")]
async fn heylookitsanllm_gets_it_too() {
    let _turn = turn().await;
    let stack = Stack::start().await;
    let fake = FakeHeylook::replaying(&[]).await;
    let chat = Chat::user("a fox");
    let tensor = expected_embeddings(WIDTH, &chat);
    let body = heylook::body(&chat.render(), "Qwen3-4B", -2, 100);
    let answer = heylook::hidden_states(&tensor, "Qwen3-4B", -2);
    let head = "content-type: application/json\r\n";
    fake.answer(&body, Reply::Bytes(heylook::response("200 OK", head, &answer)));
    let encoder = HeylookEncoder::new(&fake.url, "Qwen3-4B", HeylookOptions::default());
    let options = options(&[], &[&stack.diffusion.url]);
    let options = GatewayOptions { heylook: Some(encoder.expect("valid")), ..options };
    let gateway = Gateway::with(options).await;
    let response = ask(&gateway, "mine", "image/png", 1).await;
    assert_eq!(response.status(), 200);
    let asked = fake.requests().pop().expect("a request");
    assert_eq!(asked.headers.get("x-request-id").map(String::as_str), Some("mine"));
}
