//! The encoder service in front of heylookitsanllm: a plain gRPC client cannot tell the difference.

use encoder_service::{EncoderHandle, EncoderLimits};
use llm_dit_fault::Fault;
use llm_dit_heylook::{HeylookEncoder, HeylookOptions};
use llm_dit_proto::{
    DType,
    v1::{self, DescribeEncoderRequest, encoder_client::EncoderClient},
};
use llm_dit_serving::client::WithKey;
use llm_dit_testkit::{
    fakes::{
        FakeHeylook,
        heylook::{Reply, body, recorded_response, response},
    },
    servers::Server,
    wire::{chat, embeddings},
};
use tonic::{Code, Status};

const MODEL: &str = "Qwen3-4B-mlx";
const FRAME: [&str; 2] = ["<|im_start|>user\n", "<|im_end|>\n<|im_start|>assistant\n"];

async fn service(fake: &FakeHeylook, limits: EncoderLimits) -> (Server, EncoderClient<WithKey>) {
    let encoder = HeylookEncoder::new(&fake.url, MODEL, HeylookOptions::default()).expect("valid");
    let handle = EncoderHandle::heylook(encoder, limits).expect("a thread");
    let server = Server::encoder(handle).await;
    let client = EncoderClient::new(server.channel());
    (server, client)
}

fn one(prompt: &str) -> v1::EncodeRequest {
    v1::EncodeRequest { prompts: vec![chat(prompt)], ..Default::default() }
}

/// The body in which this prompt reaches the server.
fn asked(prompt: &str, layer: i64, max_length: u32) -> String {
    body(&[FRAME[0], prompt, FRAME[1]].concat(), MODEL, layer, max_length)
}

async fn refused(fake: &FakeHeylook, request: v1::EncodeRequest) -> Status {
    let (_server, mut client) = service(fake, EncoderLimits::default()).await;
    match client.encode(request).await {
        Err(status) => status,
        Ok(frames) => embeddings(frames.into_inner()).await.expect_err("refused"),
    }
}

#[tokio::test]
async fn prompts_come_back_in_order_from_the_other_machine() {
    // The first is the recorded exchange, byte for byte.
    let fake = FakeHeylook::replaying(&["hs_base64_like_llmdit"]).await;
    fake.answer(&asked("", -2, 512), Reply::Bytes(recorded_response("hs_float")));
    let (_server, mut client) = service(&fake, EncoderLimits::default()).await;
    let before = client.describe(DescribeEncoderRequest {}).await.expect("well").into_inner();
    assert_eq!((before.hidden_size, before.layers), (2560, 36), "Qwen3-4B until it has answered");
    assert_eq!((&*before.model, &*before.device), (MODEL, "heylookitsanllm"));

    let prompts = vec![chat("A beautiful sunset"), chat("")];
    let request = v1::EncodeRequest { prompts, ..Default::default() };
    let frames = client.encode(request).await.expect("accepted").into_inner();
    let results = embeddings(frames).await.expect("well");
    assert_eq!(results.len(), 2);
    for (i, (header, tensor)) in results.iter().enumerate() {
        assert_eq!((header.index as usize, header.hidden_layer), (i, 35));
        assert_eq!((&*header.model, header.truncated_tokens), (MODEL, 0));
        assert_eq!((tensor.shape()[1], tensor.dtype()), (64, DType::Bf16));
    }
    assert_eq!(results[0].1, results[1].1, "the same values, recorded in both forms");
    let after = client.describe(DescribeEncoderRequest {}).await.expect("well").into_inner();
    assert_eq!(after.hidden_size, 64);
}

#[tokio::test]
async fn what_is_asked_for_reaches_the_other_machine() {
    let fake = FakeHeylook::replaying(&[]).await;
    let four = recorded_response("hs_maxlen4");
    fake.answer(&asked("A beautiful sunset", -2, 4), Reply::Bytes(four));
    let (_server, mut client) = service(&fake, EncoderLimits::default()).await;
    let request = v1::EncodeRequest {
        max_tokens: Some(4),
        dtype: DType::F32.to_wire(),
        ..one("A beautiful sunset")
    };
    let frames = client.encode(request).await.expect("accepted").into_inner();
    let (header, tensor) = embeddings(frames).await.expect("well").remove(0);
    assert_eq!((tensor.shape(), tensor.dtype()), (&[4, 64][..], DType::F32));
    assert_eq!(header.truncated_tokens, 1, "at least, as far as one can know");
}

#[tokio::test]
async fn what_cannot_be_had_is_refused_before_anybody_is_asked() {
    let fake = FakeHeylook::replaying(&[]).await;
    for (request, code, words) in [
        (one("a sign <|im_end|>"), Code::InvalidArgument, "special token <|im_end|>"),
        (
            v1::EncodeRequest { hidden_layer: Some(-1), ..one("x") },
            Code::FailedPrecondition,
            "after the norm",
        ),
        (
            v1::EncodeRequest { truncation: v1::Truncation::Prompt.into(), ..one("x") },
            Code::FailedPrecondition,
            "truncates at the end of the chat",
        ),
        (
            v1::EncodeRequest { hidden_layer: Some(0), ..one("x") },
            Code::FailedPrecondition,
            "embedding table",
        ),
        (
            v1::EncodeRequest { hidden_layer: Some(37), ..one("x") },
            Code::InvalidArgument,
            "36 layers",
        ),
        (
            v1::EncodeRequest { max_tokens: Some(1505), ..one("x") },
            Code::InvalidArgument,
            "1 to 1504",
        ),
        (v1::EncodeRequest::default(), Code::InvalidArgument, "no prompt"),
    ] {
        let status = refused(&fake, request).await;
        assert_eq!(status.code(), code, "{words}: {status}");
        assert!(status.message().contains(words), "{words}: {}", status.message());
    }
    assert!(fake.requests().is_empty());
}

#[tokio::test]
async fn the_other_machines_errors_become_ours() {
    let not_found = response("404 Not Found", "", r#"{"detail":"Not Found"}"#);
    let full = response("503 Service Unavailable", "retry-after: 7\r\n", r#"{"detail":"full"}"#);
    for (reply, code, words) in [
        (recorded_response("err_unknown_model"), Code::FailedPrecondition, "Available: ["),
        (recorded_response("auth_none"), Code::FailedPrecondition, "requires an API key"),
        (not_found, Code::FailedPrecondition, "/v1/hidden_states"),
        (full, Code::ResourceExhausted, "busy"),
        (recorded_response("err_list0"), Code::Internal, "log has the cause"),
        (recorded_response("hs_layer_-1"), Code::FailedPrecondition, "default_hidden_layer"),
    ] {
        let fake = FakeHeylook::replaying(&[]).await;
        fake.answer(&asked("x", -2, 512), Reply::Bytes(reply));
        let status = refused(&fake, one("x")).await;
        assert_eq!(status.code(), code, "{words}: {status}");
        assert!(status.message().contains(words), "{words}: {}", status.message());
        assert!(!status.message().contains("list index"), "{status}");
        if code == Code::ResourceExhausted {
            assert!(
                matches!(Fault::from(status), Fault::Busy { retry_after, .. } if retry_after.as_secs() == 7)
            );
        }
    }
}

#[tokio::test]
async fn a_full_line_refuses_and_the_rest_is_served_one_by_one() {
    let fake = FakeHeylook::replaying(&[]).await;
    let held = Reply::Held(recorded_response("hs_base64_like_llmdit"));
    fake.answer(&asked("x", -2, 512), held);
    let limits = EncoderLimits { queue_capacity: 1, ..Default::default() };
    let (_server, client) = service(&fake, limits).await;
    let ask = async || client.clone().encode(one("x")).await;
    let first = ask().await.expect("accepted").into_inner();
    while fake.requests().is_empty() {
        tokio::task::yield_now().await;
    }
    let second = ask().await.expect("may wait").into_inner();
    let status = ask().await.expect_err("full");
    assert_eq!(status.code(), Code::ResourceExhausted, "{status}");
    assert!(status.message().contains("heylookitsanllm is busy"), "{status}");

    // Who leaves the line is not asked for; who left while being served is finished in silence.
    drop(first);
    fake.release();
    fake.release();
    embeddings(second).await.expect("well");
    assert_eq!((fake.requests().len(), fake.most_in_flight()), (2, 1));
}
