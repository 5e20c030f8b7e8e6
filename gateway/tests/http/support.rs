//! A gateway on port 0 before services over fakes.

use std::{collections::HashMap, net::Ipv4Addr};

use diffusion_service::{
    ServiceLimits,
    engine::{GenerateJob, ImageGenerator as _},
    picture,
};
use encoder_service::engine::EncodeJob;
use futures::{StreamExt as _, stream::BoxStream};
use gateway::{EncoderTarget, GatewayOptions};
use llm_dit_chat::Chat;
use llm_dit_params::GenerateOptions;
use llm_dit_proto::{DType, Tensor};
use llm_dit_testkit::{
    fakes::{Control, FakeEncoder, FakeGenerator},
    http,
    servers::{Server, fake_diffusion, fake_encoder, tokenizer},
};
use reqwest::{Response, StatusCode};
use serde_json::Value;
use sse_stream::SseStream;
use tokio::{net::TcpListener, sync::mpsc::UnboundedReceiver};
use tokio_util::sync::{CancellationToken, DropGuard};

/// Width of the embeddings.
pub const WIDTH: usize = 24;

pub struct Gateway {
    pub url: String,
    _stop: DropGuard,
}

/// A gateway and both services.
pub struct Stack {
    pub encoder: Server,
    pub jobs: UnboundedReceiver<EncodeJob>,
    pub diffusion: Server,
    pub control: Control,
    pub gateway: Gateway,
}

impl Gateway {
    pub async fn start(encoder: Option<&str>, diffusion: &str) -> Self {
        let encoders: Vec<&str> = encoder.into_iter().collect();
        Self::with(options(&encoders, &[diffusion])).await
    }

    pub async fn with(options: GatewayOptions) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a free port");
        let url = format!("http://{}", listener.local_addr().expect("bound"));
        let shutdown = CancellationToken::new();
        tokio::spawn(gateway::run(listener, options, shutdown.clone()));
        Self { url, _stop: shutdown.drop_guard() }
    }

    pub async fn post(&self, body: &Value) -> Response {
        self.post_to("/api/generate", body).await
    }

    pub async fn post_to(&self, path: &str, body: &Value) -> Response {
        let request = http().post(format!("{}{path}", self.url)).json(body);
        request.send().await.expect("the gateway answers")
    }

    /// A request whose answer is a stream of events.
    pub async fn stream(&self, body: &Value) -> Response {
        let request = http().post(format!("{}/api/generate", self.url));
        let request = request.header("accept", "text/event-stream").json(body);
        request.send().await.expect("the gateway answers")
    }

    pub async fn delete(&self, path: &str) -> Response {
        let request = http().delete(format!("{}{path}", self.url));
        request.send().await.expect("the gateway answers")
    }

    /// JSON that comes with 200.
    pub async fn json(&self, path: &str) -> Value {
        let response = self.get(path).await;
        assert_eq!(response.status(), 200, "{path}");
        response.json().await.expect("JSON")
    }

    pub async fn get(&self, path: &str) -> Response {
        http().get(format!("{}{path}", self.url)).send().await.expect("the gateway answers")
    }
}

/// Encoders without names, and diffusion services.
pub fn options(encoders: &[&str], diffusion: &[&str]) -> GatewayOptions {
    GatewayOptions {
        encoders: encoders.iter().map(|url| EncoderTarget::local(*url)).collect(),
        diffusion: diffusion.iter().map(|url| (*url).to_owned()).collect(),
        ..Default::default()
    }
}

/// A server-sent event: its name, its data, and its id if it has one.
#[derive(Clone, Debug, PartialEq)]
pub struct Sse {
    pub name: String,
    pub data: Value,
    pub id: Option<u64>,
}

/// Reads events as they come.
pub struct Events(BoxStream<'static, Result<sse_stream::Sse, sse_stream::Error>>);

impl Events {
    pub fn new(response: Response) -> Self {
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        Self(SseStream::from_bytes_stream(response.bytes_stream()).boxed())
    }

    /// `None` when the stream has ended.
    pub async fn next(&mut self) -> Option<Sse> {
        loop {
            let event = self.0.next().await?.expect("the stream does not break");
            // A comment that keeps the connection open.
            let Some(name) = event.event else { continue };
            return Some(Sse {
                name,
                data: serde_json::from_str(&event.data.expect("data")).expect("JSON"),
                id: event.id.map(|id| id.parse().expect("a number")),
            });
        }
    }

    pub async fn rest(mut self) -> Vec<Sse> {
        let mut events = Vec::new();
        while let Some(event) = self.next().await {
            events.push(event);
        }
        events
    }
}

impl Stack {
    pub async fn start() -> Self {
        Self::with(FakeGenerator::free(WIDTH), ServiceLimits::default(), WIDTH).await
    }

    /// `width` is what the encoder has.
    pub async fn with(
        generator: (FakeGenerator, Control),
        limits: ServiceLimits,
        width: usize,
    ) -> Self {
        let (encoder, jobs) = fake_encoder(width);
        let encoder = Server::encoder(encoder).await;
        let (diffusion, control) = fake_diffusion(generator, limits, None);
        let diffusion = Server::diffusion(diffusion).await;
        let gateway = Gateway::start(Some(&encoder.url), &diffusion.url).await;
        Self { encoder, jobs, diffusion, control, gateway }
    }
}

/// What the services make of a request when nothing stands between them.
pub fn expected_png(
    width: usize,
    chat: &Chat,
    options: GenerateOptions,
    negative: &str,
) -> Vec<u8> {
    let info = FakeGenerator::free(width).0.info();
    let params = options.resolve(&info.defaults, &info.limits).expect("valid");
    let embeddings = |chat: &Chat| expected_embeddings(width, chat);
    let job = GenerateJob {
        embeddings: embeddings(chat),
        negative_embeddings: params.uses_guidance().then(|| embeddings(&Chat::user(negative))),
        params,
        loras: Vec::new(),
        latents: None,
        image: None,
        mask: None,
        return_latents: false,
        preview: None,
    };
    let mut recipe = picture::recipe(&info, &job);
    recipe.settings.prompt = Some(chat.user.clone());
    recipe.settings.negative_prompt = Some(negative.to_owned()).filter(|text| !text.is_empty());
    picture::encode_png(&FakeGenerator::picture(&job), &recipe).expect("a picture").to_vec()
}

/// What the fake encoder makes of a chat.
pub fn expected_embeddings(width: usize, chat: &Chat) -> Tensor {
    let token_ids = tokenizer().tokenize(chat, 100).expect("fits").ids;
    // -2 of four layers.
    FakeEncoder::expected(&EncodeJob { token_ids, hidden_layer: 3, dtype: DType::F32 }, width)
}

/// The problem's detail, after everything else about it has been checked.
pub async fn problem(response: Response, status: u16) -> String {
    let headers: HashMap<String, String> = response
        .headers()
        .iter()
        .map(|(name, value)| (name.to_string(), value.to_str().expect("text").to_owned()))
        .collect();
    let found = response.status();
    assert_ne!(headers["content-type"], "image/png", "a picture in place of {status}");
    let body = response.text().await.expect("a body");
    assert_eq!(found.as_u16(), status, "{body}");
    assert_eq!(headers["content-type"], "application/problem+json", "{body}");
    assert!(!headers["x-request-id"].is_empty());
    let retry = headers.get("retry-after").map(|s| s.parse::<u32>().expect("seconds"));
    assert_eq!(retry.is_some(), found == StatusCode::SERVICE_UNAVAILABLE, "{body}");
    let problem: Value = serde_json::from_str(&body).expect("JSON");
    assert_eq!(problem["status"], status);
    assert!(problem["title"].is_string());
    problem["detail"].as_str().expect("a detail").to_owned()
}
