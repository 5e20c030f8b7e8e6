//! What the gateway costs, before services that take no time themselves.
//!
//! ```sh
//! cargo build --release -p gateway
//! cargo bench -p llm-dit-tests --bench gateway
//! ```
//!
//! Embeddings have 512 tokens of width 2560 in bf16 (2.6 MB), and no prompt comes twice, so that
//! none is remembered. *Direct* is a client that calls the encoder, holds the embeddings and sends
//! them to the diffusion service; *gateway* is one `POST /api/generate`. Both take turns, so that a
//! machine that slows down slows both. The services and the client are this process, the gateway is
//! one of its own.

use std::{
    error::Error,
    io::Cursor,
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures::future::join_all;
use image::{ImageFormat, RgbImage};
use llm_dit_proto::v1::{
    Dtype, EmbeddingHeader, EncodeRequest, GenerateParams, TensorHeader, TensorRole,
    diffusion_client::DiffusionClient, encode_response::Frame, encoder_client::EncoderClient,
    generate_event::Event,
};
use llm_dit_serving::client::WithKey;
use llm_dit_testkit::{
    fakes::{FastDiffusion, ScriptedEncoder},
    process::Process,
    servers::Server,
    wire,
};
use serde_json::json;

const TOKENS: u64 = 512;
const WIDTH: u64 = 2560;
/// Pairs of requests at concurrency 1, and rounds of 16 pairs.
const PAIRS: usize = 200;
const ROUNDS: usize = 25;
const CONCURRENCY: usize = 16;
/// Requests over which memory is watched, after those that fill caches and pools.
const WARM_UP: usize = 400;
const REQUESTS: usize = 2000;

type Failure = Box<dyn Error + Send + Sync>;

/// Calls both ways.
#[derive(Clone)]
struct Client {
    encoder: EncoderClient<WithKey>,
    diffusion: DiffusionClient<WithKey>,
    http: reqwest::Client,
    url: String,
}

#[tokio::main]
async fn main() -> Result<(), Failure> {
    // `cargo test --all-targets` runs benches too, with this flag.
    if std::env::args().any(|argument| argument == "--test") {
        return Ok(());
    }
    let tensor = Bytes::from(vec![0x3c; (TOKENS * WIDTH * 2) as usize]);
    let header = TensorHeader {
        dtype: Dtype::Bf16.into(),
        shape: vec![TOKENS, WIDTH],
        total_bytes: tensor.len() as u64,
    };
    let mut frames =
        vec![Frame::Header(EmbeddingHeader { tensor: Some(header), ..Default::default() })];
    frames.extend(llm_dit_proto::chunks(tensor).map(Frame::Data));
    let encoder = Server::scripted_encoder(ScriptedEncoder { frames, ..Default::default() }).await;
    let mut picture = Cursor::new(Vec::new());
    RgbImage::from_fn(256, 256, |x, y| image::Rgb([x as u8, y as u8, (x ^ y) as u8]))
        .write_to(&mut picture, ImageFormat::Png)?;
    let picture = Bytes::from(picture.into_inner());
    let fake =
        FastDiffusion { cap_feat_dim: WIDTH as u32, picture, preview: None, flood: Vec::new() };
    let diffusion = Server::fast_diffusion(fake).await;
    let folder = tempfile::tempdir()?;
    let history = folder.path().to_str().ok_or("a path in UTF-8")?;
    let gateway = Process::start(
        "gateway",
        &["--encoder", &encoder.url, "--diffusion", &diffusion.url, "--history", history],
    );
    let client = Client {
        encoder: EncoderClient::new(encoder.channel()),
        diffusion: DiffusionClient::new(diffusion.channel()),
        http: llm_dit_testkit::http(),
        url: gateway.url.clone(),
    };

    for number in 0..20 {
        client.direct().await?;
        client.gateway(number).await?;
    }
    let mut number = 1000;
    let (mut direct, mut through) = (Vec::new(), Vec::new());
    for _ in 0..PAIRS {
        direct.push(client.direct().await?);
        number += 1;
        through.push(client.gateway(number).await?);
    }
    report("concurrency 1", &mut direct, &mut through);

    let (mut direct, mut through) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        for time in join_all((0..CONCURRENCY).map(|_| client.direct())).await {
            direct.push(time?);
        }
        number += CONCURRENCY;
        let round = (0..CONCURRENCY).map(|index| client.gateway(number + index));
        for time in join_all(round).await {
            through.push(time?);
        }
    }
    report("concurrency 16", &mut direct, &mut through);

    let mut first = Vec::new();
    for _ in 0..100 {
        number += 1;
        first.push(client.first_event(number).await?);
    }
    first.sort();
    println!(
        "first progress event: median {:.2} ms, slowest {:.2} ms",
        ms(first[50]),
        ms(first[99])
    );

    let mut memory = Vec::new();
    for done in 0..WARM_UP + REQUESTS {
        number += 1;
        client.gateway(number).await?;
        if done >= WARM_UP && done % 50 == 0 {
            memory.push(gateway.memory().ok_or("no VmRSS")?);
        }
    }
    let (first, last) = (memory[0], memory[memory.len() - 1]);
    memory.sort_unstable();
    let (low, high) = (memory[0], memory[memory.len() - 1]);
    let spread = 100.0 * (high - low) as f64 / low as f64;
    println!(
        "memory over {REQUESTS} requests: {low} to {high} KiB, {spread:.1} % apart; at first {first}, at last {last}"
    );
    Ok(())
}

impl Client {
    async fn direct(&self) -> Result<Duration, Failure> {
        let begun = Instant::now();
        let request = EncodeRequest { prompts: vec![wire::chat("x")], ..Default::default() };
        let mut frames = self.encoder.clone().encode(request).await?.into_inner();
        let params = GenerateParams { seed: Some(1), ..Default::default() };
        let mut parts = vec![wire::params(params)];
        let mut missing = u64::MAX;
        while missing > 0 {
            match frames.message().await?.and_then(|answer| answer.frame) {
                Some(Frame::Header(header)) => {
                    let header = header.tensor.ok_or("no shape")?;
                    missing = header.total_bytes;
                    parts.push(wire::start(TensorRole::Embeddings, header));
                }
                Some(Frame::Data(data)) => {
                    missing -= data.len() as u64;
                    parts.push(wire::data(data));
                }
                None => return Err("the encoder ended early".into()),
            }
        }
        let request = tokio_stream::iter(parts);
        let mut events = self.diffusion.clone().generate(request).await?.into_inner();
        let mut file = Vec::new();
        while let Some(event) = events.message().await? {
            if let Some(Event::Data(data)) = event.event {
                file.extend_from_slice(&data);
            }
        }
        assert!(file.starts_with(b"\x89PNG"), "a picture");
        Ok(begun.elapsed())
    }

    async fn gateway(&self, number: usize) -> Result<Duration, Failure> {
        let begun = Instant::now();
        let request = self.http.post(format!("{}/api/generate", self.url));
        let body = json!({"prompt": format!("prompt {number}"), "seed": 1});
        let response = request.json(&body).send().await?.error_for_status()?;
        let file = response.bytes().await?;
        assert!(file.starts_with(b"\x89PNG"), "a picture");
        Ok(begun.elapsed())
    }

    async fn first_event(&self, number: usize) -> Result<Duration, Failure> {
        let begun = Instant::now();
        let request = self.http.post(format!("{}/api/generate", self.url));
        let request = request.header("accept", "text/event-stream");
        let body = json!({"prompt": format!("prompt {number}"), "seed": 1});
        let mut response = request.json(&body).send().await?.error_for_status()?;
        let mut text = Vec::new();
        let mut first = None;
        while let Some(chunk) = response.chunk().await? {
            text.extend_from_slice(&chunk);
            if first.is_none() && text.windows(15).any(|w| w == b"event: progress") {
                first = Some(begun.elapsed());
            }
        }
        first.ok_or_else(|| "no progress".into())
    }
}

fn report(what: &str, direct: &mut [Duration], through: &mut [Duration]) {
    direct.sort();
    through.sort();
    let (direct, through) = (ms(direct[direct.len() / 2]), ms(through[through.len() / 2]));
    println!(
        "{what}: direct {direct:.2} ms, gateway {through:.2} ms, {:.2} ms more (medians)",
        through - direct
    );
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}
