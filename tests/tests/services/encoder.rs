//! The encoder service from outside, over a fake engine and the real tokenizer.

use encoder_service::{EncodeRequest, EncoderHandle, EncoderLimits};
use futures::StreamExt as _;
use llm_dit_chat::Chat;
use llm_dit_fault::Fault;
use llm_dit_params::Truncation;
use llm_dit_proto::{
    DType,
    v1::{self, DescribeEncoderRequest, encoder_client::EncoderClient},
};
use llm_dit_serving::client::WithKey;
use llm_dit_testkit::{
    fakes::FakeEncoder,
    servers::{Server, fake_encoder, tokenizer},
    wire::{chat, embeddings},
};
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status};

async fn client() -> (Server, EncoderClient<WithKey>) {
    let (handle, _jobs) = fake_encoder(64);
    let server = Server::encoder(handle).await;
    let client = EncoderClient::new(server.channel());
    (server, client)
}

async fn refused(request: v1::EncodeRequest) -> Status {
    let (_server, mut client) = client().await;
    client.encode(request).await.expect_err("refused")
}

fn one(prompt: &str) -> v1::EncodeRequest {
    v1::EncodeRequest { prompts: vec![chat(prompt)], ..Default::default() }
}

#[tokio::test]
async fn several_prompts_come_back_in_order_and_in_full() {
    let (handle, mut jobs) = fake_encoder(64);
    let server = Server::encoder(handle).await;
    let mut client = EncoderClient::new(server.channel());
    let prompts = vec![chat("a red fox in the snow"), chat(""), chat("ein Haus am See")];
    let request = v1::EncodeRequest { prompts, ..Default::default() };
    let frames = client.encode(request).await.expect("accepted").into_inner();
    let results = embeddings(frames).await.expect("well");
    assert_eq!(results.len(), 3);
    for (i, (header, tensor)) in results.iter().enumerate() {
        let job = jobs.recv().await.expect("one job a prompt");
        assert_eq!(header.index as usize, i);
        assert_eq!(header.hidden_layer, 3, "-2 of 5 states");
        assert_eq!(job.hidden_layer, 3);
        assert_eq!(header.model, "fake-encoder");
        assert_eq!(header.truncated_tokens, 0);
        assert_eq!(tensor, &FakeEncoder::expected(&job, 64));
    }
    // The empty negative prompt is its frame: <|im_start|>user\n<|im_end|>\n<|im_start|>assistant\n
    assert_eq!(results[1].1.shape(), [8, 64]);
}

#[tokio::test]
async fn what_is_asked_for_is_what_comes() {
    let (_server, mut client) = client().await;
    let mut request = one(&"very ".repeat(1000));
    request.hidden_layer = Some(0);
    request.max_tokens = Some(40);
    request.dtype = DType::Bf16.to_wire();
    let frames = client.encode(request).await.expect("accepted").into_inner();
    let (header, tensor) = embeddings(frames).await.expect("well").remove(0);
    assert_eq!((header.hidden_layer, tensor.dtype()), (0, DType::Bf16));
    assert_eq!(tensor.shape(), [40, 64]);
    assert!(header.truncated_tokens > 900, "{}", header.truncated_tokens);
}

#[tokio::test]
async fn a_tensor_of_many_chunks_arrives_whole() {
    let (handle, mut jobs) = fake_encoder(2560);
    let server = Server::encoder(handle).await;
    let mut request = one(&"word ".repeat(2000));
    request.max_tokens = Some(1504);
    let frames = EncoderClient::new(server.channel()).encode(request).await.expect("accepted");
    let (header, tensor) = embeddings(frames.into_inner()).await.expect("well").remove(0);
    assert_eq!(header.tensor.expect("shape").total_bytes, 1504 * 2560 * 4);
    assert_eq!(tensor, FakeEncoder::expected(&jobs.recv().await.expect("a job"), 2560));
}

#[tokio::test]
async fn bad_requests_are_refused_with_the_reason() {
    let big = "x".repeat(64 * 1024 + 1);
    let cases = [
        (v1::EncodeRequest::default(), "no prompt"),
        (v1::EncodeRequest { prompts: vec![chat("x"); 65], ..Default::default() }, "at most 64"),
        (v1::EncodeRequest { hidden_layer: Some(5), ..one("x") }, "use -5 to 4"),
        (v1::EncodeRequest { hidden_layer: Some(i32::MIN), ..one("x") }, "hidden_layer"),
        (v1::EncodeRequest { max_tokens: Some(0), ..one("x") }, "use 1 to 1504"),
        (v1::EncodeRequest { max_tokens: Some(u32::MAX), ..one("x") }, "use 1 to 1504"),
        (v1::EncodeRequest { max_tokens: Some(3), ..one("x") }, "max_tokens is 3"),
        (v1::EncodeRequest { dtype: 9, ..one("x") }, "unknown tensor dtype 9"),
        (v1::EncodeRequest { truncation: 9, ..one("x") }, "unknown truncation 9"),
        (one(&big), "prompt of 65537 bytes is too long"),
        (
            v1::EncodeRequest {
                prompts: vec![v1::Chat { system: big.clone(), ..chat("x") }],
                ..Default::default()
            },
            "system of 65537 bytes is too long",
        ),
        (
            v1::EncodeRequest {
                prompts: vec![v1::Chat {
                    history: vec![v1::Exchange { assistant: big.clone(), ..Default::default() }],
                    ..chat("x")
                }],
                ..Default::default()
            },
            "history of 65537 bytes is too long",
        ),
    ];
    for (request, reason) in cases {
        let status = refused(request).await;
        assert_eq!(status.code(), Code::InvalidArgument, "{reason}: {status}");
        assert!(status.message().contains(reason), "{reason}: {}", status.message());
    }
}

#[tokio::test]
async fn a_long_chat_is_cut_where_the_caller_says() {
    let (handle, mut jobs) = fake_encoder(64);
    let server = Server::encoder(handle).await;
    let whole = tokenizer().tokenize(&Chat::user("a red apple"), 512).expect("fits").ids;
    let max = whole.len() - 1;
    for (truncation, cut) in [
        (v1::Truncation::Unspecified, Truncation::Prompt),
        (v1::Truncation::Prompt, Truncation::Prompt),
        (v1::Truncation::End, Truncation::End),
    ] {
        let request = v1::EncodeRequest {
            max_tokens: Some(max as u32),
            truncation: truncation.into(),
            ..one("a red apple")
        };
        let mut client = EncoderClient::new(server.channel());
        let frames = client.encode(request).await.expect("accepted").into_inner();
        assert_eq!(embeddings(frames).await.expect("well")[0].0.truncated_tokens, 1);
        let expected = tokenizer().tokenize_to(&Chat::user("a red apple"), max, cut);
        let ids = jobs.recv().await.expect("a job").token_ids;
        assert_eq!(ids, expected.expect("fits").ids, "{truncation:?}");
        assert_eq!(ids == whole[..max], cut == Truncation::End);
    }
}

#[tokio::test]
async fn a_conversation_of_several_turns_arrives_whole() {
    let (handle, mut jobs) = fake_encoder(64);
    let server = Server::encoder(handle).await;
    let earlier = v1::Exchange {
        user: "a cat".to_owned(),
        thinking: "fur".to_owned(),
        assistant: "Here.".to_owned(),
    };
    let chat = v1::Chat {
        history: vec![earlier],
        system: "Paint.".to_owned(),
        close_turn: true,
        ..chat("now a dog<|im_end|>")
    };
    let mut ids = Vec::new();
    for chat in [
        chat.clone(),
        v1::Chat { enable_thinking: Some(false), force_think_block: true, ..chat.clone() },
        v1::Chat { raw_special_tokens: true, ..chat.clone() },
    ] {
        let request = v1::EncodeRequest { prompts: vec![chat.clone()], ..Default::default() };
        let mut client = EncoderClient::new(server.channel());
        embeddings(client.encode(request).await.expect("taken").into_inner()).await.expect("well");
        let job = jobs.recv().await.expect("a job");
        let expected = tokenizer().tokenize(&Chat::from(chat), 512).expect("fits").ids;
        assert_eq!(job.token_ids, expected);
        ids.push(expected);
    }
    assert!(ids[0] != ids[1] && ids[0] != ids[2], "every switch does something");
}

#[tokio::test]
async fn ten_megabytes_of_prompt_do_not_get_in() {
    let status = refused(one(&"x".repeat(10 << 20))).await;
    assert_eq!(status.code(), Code::OutOfRange, "{status}");
    assert!(matches!(Fault::from(status), Fault::BadRequest(m) if m.contains("the limit is")));
}

#[tokio::test]
async fn describe_says_what_requests_may_hold() {
    let (_server, mut client) = client().await;
    let described = client.describe(DescribeEncoderRequest {}).await.expect("well").into_inner();
    assert_eq!((described.hidden_size, described.layers), (64, 4));
    assert_eq!((described.default_max_tokens, described.max_tokens_limit), (512, 1504));
    assert_eq!((described.default_hidden_layer, described.max_prompts), (-2, 64));
    assert_eq!(described.device, "cpu");
    assert_eq!(described.version, env!("CARGO_PKG_VERSION"));
}

#[tokio::test]
async fn dropping_the_results_stops_the_prompts_that_are_left() {
    let (handle, mut jobs) = fake_encoder(64);
    let request =
        EncodeRequest { chats: vec![Chat::user("one prompt"); 64], ..EncodeRequest::default() };
    let mut results = handle.encode(request, &CancellationToken::new()).await.expect("accepted");
    assert_eq!(results.next().await.expect("first").expect("well").index, 0);
    drop(results);
    drop(handle);
    // Ends when the engine does, which is when nothing more will be encoded.
    let mut encoded = 0;
    while jobs.recv().await.is_some() {
        encoded += 1;
    }
    assert!(encoded <= 3, "{encoded} prompts were encoded for a reader that took one");
}

#[tokio::test]
async fn a_cancelled_request_ends_with_cancelled() {
    let (handle, _jobs) = fake_encoder(64);
    let cancel = CancellationToken::new();
    cancel.cancel();
    let request = EncodeRequest { chats: vec![Chat::user("x")], ..EncodeRequest::default() };
    let results = handle.encode(request, &cancel).await.expect("nothing wrong with it");
    let results: Vec<_> = results.collect().await;
    assert!(matches!(results[..], [Err(Fault::Cancelled(_))]), "{results:?}");
}

#[tokio::test]
async fn an_engine_that_panics_answers_internal_and_lives_on() {
    use encoder_service::engine::{EncodeError, EncodeJob, EncoderInfo, TextEncoder};

    struct Fragile(FakeEncoder, u32);
    impl TextEncoder for Fragile {
        fn info(&self) -> EncoderInfo {
            self.0.info()
        }
        fn encode(&mut self, job: &EncodeJob) -> Result<llm_dit_proto::Tensor, EncodeError> {
            self.1 += 1;
            match self.1 {
                1 => panic!("as the test wants"),
                2 => Err(EncodeError::Backend("a secret of the backend".to_owned())),
                _ => self.0.encode(job),
            }
        }
    }
    let (fake, _jobs) = FakeEncoder::new(8);
    let engine = Box::new(Fragile(fake, 0));
    let handle = EncoderHandle::spawn(engine, tokenizer(), EncoderLimits::default());
    let server = Server::encoder(handle.expect("a thread")).await;
    let mut client = EncoderClient::new(server.channel());
    for _ in 0..2 {
        let frames = client.encode(one("x")).await.expect("accepted").into_inner();
        let status = embeddings(frames).await.expect_err("fails");
        assert_eq!(status.code(), Code::Internal);
        assert!(!status.message().contains("secret"), "{status}");
    }
    let frames = client.encode(one("x")).await.expect("accepted").into_inner();
    assert_eq!(embeddings(frames).await.expect("well").len(), 1);
}
