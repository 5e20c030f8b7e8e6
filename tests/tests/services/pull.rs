//! A diffusion service that fetches embeddings itself.

use diffusion_service::ServiceLimits;
use encoder_service::{EncodeRequest, engine::EncodeJob};
use llm_dit_chat::Chat;
use llm_dit_fault::Fault;
use llm_dit_proto::v1::{
    self, EmbeddingHeader, GenerateParams, TensorRole, diffusion_client::DiffusionClient,
    encode_response::Frame,
};
use llm_dit_serving::Remote;
use llm_dit_testkit::{
    fakes::{FakeGenerator, ScriptedEncoder},
    servers::{Server, fake_diffusion, fake_encoder},
    wire::{Outcome, chat, outcome, request, tensor},
};
use tokio::sync::mpsc::UnboundedReceiver;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status};

const WIDTH: usize = 32;

async fn diffusion(encoder: Option<Remote>) -> Server {
    let fake = FakeGenerator::free(WIDTH);
    Server::diffusion(fake_diffusion(fake, ServiceLimits::default(), encoder).0).await
}

async fn with_encoder(hidden_size: usize) -> (Server, Server, UnboundedReceiver<EncodeJob>) {
    let (handle, jobs) = fake_encoder(hidden_size);
    let encoder = Server::encoder(handle).await;
    let diffusion = diffusion(Some(encoder.remote("encoder"))).await;
    (encoder, diffusion, jobs)
}

async fn generate(server: &Server, params: GenerateParams) -> Result<Outcome, Status> {
    let mut client = DiffusionClient::new(server.channel());
    outcome(client.generate(request(params, &[])).await?.into_inner()).await
}

fn prompt(text: &str) -> GenerateParams {
    GenerateParams { prompt: Some(chat(text)), seed: Some(1), ..Default::default() }
}

#[tokio::test]
async fn a_bare_prompt_is_the_same_picture_as_its_embeddings() {
    let (_encoder, diffusion, _jobs) = with_encoder(WIDTH).await;
    let guided = GenerateParams {
        guidance_scale: Some(3.0),
        negative_prompt: Some("blurry".to_owned()),
        ..prompt("a lighthouse")
    };
    let pulled = generate(&diffusion, guided.clone()).await.expect("well");
    assert!(pulled.finished.encode_seconds > 0.0);
    assert_eq!(pulled.accepted.params.as_ref().expect("as used").prompt, None);

    let (handle, _jobs) = fake_encoder(WIDTH);
    let chats = vec![Chat::user("a lighthouse"), Chat::user("blurry")];
    let request_ = EncodeRequest { chats, ..Default::default() };
    let mut embeddings = handle.encode(request_, &CancellationToken::new()).await.expect("well");
    let mut next = async || embeddings.next().await.expect("both").expect("well").tensor;
    let (positive, negative) = (next().await, next().await);
    let mut client = DiffusionClient::new(diffusion.channel());
    let tensors =
        [(TensorRole::Embeddings, &positive), (TensorRole::NegativeEmbeddings, &negative)];
    let params = GenerateParams { prompt: None, negative_prompt: None, ..guided };
    let events = client.generate(request(params, &tensors)).await.expect("accepted");
    assert_eq!(outcome(events.into_inner()).await.expect("well").image, pulled.image);
}

#[tokio::test]
async fn only_what_guidance_needs_is_encoded() {
    let (_encoder, diffusion, mut jobs) = with_encoder(WIDTH).await;
    let thinking = v1::Chat {
        thinking: "about light".to_owned(),
        system: "paint".to_owned(),
        ..chat("a cat")
    };
    let unguided = GenerateParams { prompt: Some(thinking), ..Default::default() };
    generate(&diffusion, unguided.clone()).await.expect("well");
    let positive = jobs.recv().await.expect("a job").token_ids.len();
    assert!(jobs.try_recv().is_err(), "no negative prompt without guidance");

    let guided = GenerateParams { guidance_scale: Some(1.0), ..unguided };
    generate(&diffusion, guided).await.expect("well");
    assert_eq!(jobs.recv().await.expect("a job").token_ids.len(), positive);
    // The empty text with an empty think block, as the prompt has one: 8 tokens and 4 of the block.
    assert_eq!(jobs.recv().await.expect("the negative").token_ids.len(), 12);
}

#[tokio::test]
async fn a_cut_prompt_is_reported() {
    // This model takes 100 tokens, fewer than the encoder's default of 512.
    let (_encoder, diffusion, mut jobs) = with_encoder(WIDTH).await;
    let outcome = generate(&diffusion, prompt(&"very ".repeat(300))).await.expect("well");
    assert_eq!(jobs.recv().await.expect("a job").token_ids.len(), 100);
    assert!(outcome.accepted.truncated_tokens > 200, "{}", outcome.accepted.truncated_tokens);
    assert_eq!(outcome.accepted.negative_truncated_tokens, 0);

    let negative_prompt = Some("very ".repeat(300));
    let guided = GenerateParams { guidance_scale: Some(1.0), negative_prompt, ..prompt("a cat") };
    let accepted = generate(&diffusion, guided).await.expect("well").accepted;
    assert_eq!(accepted.truncated_tokens, 0);
    let cut = accepted.negative_truncated_tokens;
    assert!(cut > 200, "{cut}");
}

#[tokio::test]
async fn without_an_encoder_the_message_says_what_to_do() {
    let diffusion = diffusion(None).await;
    let status = generate(&diffusion, prompt("a cat")).await.expect_err("refused");
    assert_eq!(status.code(), Code::FailedPrecondition, "{status}");
    assert!(status.message().contains("--encoder URL"), "{status}");
}

#[tokio::test]
async fn bad_texts_are_refused() {
    let (_encoder, diffusion, _jobs) = with_encoder(WIDTH).await;
    let big = "x".repeat(64 * 1024 + 1);
    let system = v1::Chat { system: big.clone(), ..chat("x") };
    let cases = [
        (prompt(" \n"), "prompt is empty"),
        (prompt(&big), "prompt of 65537 bytes"),
        (GenerateParams { negative_prompt: Some(big), ..prompt("x") }, "negative_prompt of 65537"),
        // Found by the encoder; its word is passed on.
        (GenerateParams { prompt: Some(system), ..Default::default() }, "system of 65537 bytes"),
    ];
    for (params, reason) in cases {
        let status = generate(&diffusion, params).await.expect_err("refused");
        assert_eq!(status.code(), Code::InvalidArgument, "{status}");
        assert!(status.message().contains(reason), "{reason}: {status}");
    }
}

#[tokio::test]
async fn an_encoder_of_another_model_is_named() {
    let (encoder, diffusion, _jobs) = with_encoder(48).await;
    let status = generate(&diffusion, prompt("a cat")).await.expect_err("refused");
    assert_eq!(status.code(), Code::FailedPrecondition, "{status}");
    for part in [encoder.url.as_str(), "fake-encoder", "width 48", "cap_feat_dim 32"] {
        assert!(status.message().contains(part), "{part}: {status}");
    }
}

#[tokio::test]
async fn an_encoder_that_is_away_is_named() {
    let (handle, _jobs) = fake_encoder(WIDTH);
    let encoder = Server::encoder(handle).await;
    let remote = encoder.remote("encoder");
    let url = encoder.url.clone();
    encoder.stop().await;
    let diffusion = diffusion(Some(remote)).await;
    let status = generate(&diffusion, prompt("a cat")).await.expect_err("refused");
    assert_eq!(status.code(), Code::Unavailable, "{status}");
    assert!(status.message().contains(&format!("encoder at {url} cannot be reached")), "{status}");
}

#[tokio::test]
async fn an_encoder_that_breaks_the_rules_is_not_believed() {
    let good = tensor(&[4, WIDTH], 0);
    let header = |index: u32| {
        Frame::Header(EmbeddingHeader { index, tensor: Some(good.header()), ..Default::default() })
    };
    let half = Frame::Data(good.bytes().slice(..256));
    let nan = Frame::Data(vec![0xff; 512].into());
    let scripts = [
        (vec![], Code::Unavailable),
        (vec![half.clone()], Code::Unavailable),
        (vec![header(1)], Code::Unavailable),
        (vec![header(0), half.clone()], Code::Unavailable),
        (vec![header(0), half.clone(), header(1)], Code::Unavailable),
        (vec![header(0), Frame::Data(vec![0; 513].into())], Code::Unavailable),
        (vec![Frame::Header(EmbeddingHeader::default())], Code::Unavailable),
        (vec![header(0), nan], Code::Unavailable),
    ];
    for (frames, code) in scripts {
        let script = ScriptedEncoder { frames, ..Default::default() };
        let encoder = Server::scripted_encoder(script).await;
        let diffusion = diffusion(Some(encoder.remote("encoder"))).await;
        let status = generate(&diffusion, prompt("a cat")).await.expect_err("refused");
        assert_eq!(status.code(), code, "{status}");
        assert!(!matches!(Fault::from(status), Fault::Internal(_)));
    }
}
