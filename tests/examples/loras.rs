//! LoRAs of one request under fire: two gateways and one direct gRPC client ask one diffusion service
//! for pictures with three sets of LoRAs, all at once. Each picture must equal the one that was made
//! when nobody else asked.
//!
//!     cargo build --release --workspace
//!     cargo run --release -p llm-dit-tests --example loras
//!     cargo run --release -p llm-dit-tests --example loras -- --pictures 24

use std::{process::ExitCode, sync::Arc};

use bytes::Bytes;
use clap::Parser;
use llm_dit_proto::v1::{
    GenerateParams, LoraSelection, LoraSet, diffusion_client::DiffusionClient,
};
use llm_dit_serving::{Credentials, Remote};
use llm_dit_testkit::{
    http,
    process::Process,
    repository,
    wire::{chat, outcome, request},
};
use serde_json::{Value, json};
use tokio::{sync::Semaphore, task::JoinSet};

const PROMPT: &str = "a sailboat";
/// The same LoRA at these scales; `None` is a request that names no LoRAs.
const SCALES: [Option<f32>; 3] = [None, Some(1.0), Some(0.4)];
const LORA: &str = "blueprint.safetensors";
/// Two gateways, and gRPC.
const DOORS: usize = 3;

/// Asks the three programs, with the demo model, for pictures of 64x64 in 2 steps
#[derive(Debug, Parser)]
struct Args {
    /// Pictures that are compared
    #[arg(long, default_value_t = 200)]
    pictures: usize,
    /// Of them at once
    #[arg(long, default_value_t = 12)]
    at_once: usize,
}

struct Stack {
    gateways: [Process; 2],
    diffusion: Process,
    _encoder: Process,
}

impl Stack {
    fn start() -> Self {
        let encoder = Process::start("encoder-service", &[]);
        let folder = repository("models/loras");
        let folder = folder.to_str().expect("a path of text");
        let args = ["--encoder", &encoder.url, "--loras-dir", folder];
        let diffusion = Process::start("diffusion-service", &args);
        let args = ["--encoder", &encoder.url, "--diffusion", &diffusion.url, "--no-history"];
        let gateways = [Process::start("gateway", &args), Process::start("gateway", &args)];
        Self { gateways, diffusion, _encoder: encoder }
    }

    async fn picture(&self, door: usize, scale: Option<f32>) -> Bytes {
        match self.gateways.get(door) {
            Some(gateway) => over_http(gateway, scale).await,
            None => self.over_grpc(scale).await,
        }
    }

    async fn over_grpc(&self, scale: Option<f32>) -> Bytes {
        let selection = |scale| LoraSelection {
            name: LORA.to_owned(),
            scale: Some(scale),
            ..Default::default()
        };
        let params = GenerateParams {
            prompt: Some(chat(PROMPT)),
            seed: Some(1),
            steps: Some(2),
            width: Some(64),
            height: Some(64),
            loras: scale.map(|scale| LoraSet { loras: vec![selection(scale)] }),
            ..Default::default()
        };
        let remote = Remote::new("diffusion service", &self.diffusion.url, &Credentials::default());
        let mut client = DiffusionClient::new(remote.expect("a URL").channel());
        let events = client.generate(request(params, &[])).await.expect("accepted");
        outcome(events.into_inner()).await.expect("a picture").image
    }
}

async fn over_http(gateway: &Process, scale: Option<f32>) -> Bytes {
    let loras: Value = scale.map(|scale| json!([{"name": LORA, "scale": scale}])).into();
    let body = json!({
        "prompt": PROMPT, "seed": 1, "steps": 2, "width": 64, "height": 64, "loras": loras,
    });
    let request = http().post(format!("{}/api/generate", gateway.url)).json(&body);
    let answer = request.send().await.expect("an answer");
    assert_eq!(answer.status(), 200);
    answer.bytes().await.expect("a picture")
}

#[tokio::main]
async fn main() -> ExitCode {
    let args = Args::parse();
    let stack = Arc::new(Stack::start());
    let mut expected = Vec::new();
    for door in 0..DOORS {
        let mut twins = Vec::new();
        for scale in SCALES {
            twins.push(stack.picture(door, scale).await);
        }
        assert!(twins[0] != twins[1] && twins[1] != twins[2] && twins[0] != twins[2]);
        expected.push(twins);
    }
    let (expected, places) = (Arc::new(expected), Arc::new(Semaphore::new(args.at_once)));
    let mut all = JoinSet::new();
    for n in 0..args.pictures {
        let (stack, expected, places) = (stack.clone(), expected.clone(), places.clone());
        all.spawn(async move {
            let _place = places.acquire().await.expect("open");
            let (door, set) = (n % DOORS, n / DOORS % SCALES.len());
            stack.picture(door, SCALES[set]).await == expected[door][set]
        });
    }
    let wrong = all.join_all().await.into_iter().filter(|right| !right).count();
    println!("{wrong} of {} pictures with the LoRAs of another request", args.pictures);
    if wrong == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
