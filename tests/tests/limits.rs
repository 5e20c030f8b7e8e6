//! Every bound of the table in `llm-dit-params`, tried at every door: HTTP, OpenAI's API, gRPC and the
//! command.

use std::process::Command;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use diffusion_service::ServiceLimits;
use gateway::{EncoderTarget, GatewayOptions};
use llm_dit_params::{
    Bound, Limits,
    bounds::{BOUNDS, Range},
};
use llm_dit_proto::v1::{
    EncodeRequest, GenerateParams, LoraSelection, LoraSet, TensorRole,
    diffusion_client::DiffusionClient, encoder_client::EncoderClient,
};
use llm_dit_testkit::{
    fakes::{Control, FakeGenerator},
    http,
    process::program,
    servers::{Server, fake_diffusion, fake_encoder},
    wire::{chat, request, tensor},
};
use serde_json::{Value, json};
use tokio::{net::TcpListener, task::spawn_blocking};
use tokio_util::sync::{CancellationToken, DropGuard};

const WIDTH: usize = 24;

struct Stack {
    encoder: Server,
    diffusion: Server,
    gateway: String,
    /// Of the fake model.
    limits: Limits,
    source: String,
    _control: Control,
    _stop: DropGuard,
}

/// What a door makes of a value: `Err` has the refusal.
type Verdict = Result<(), String>;

impl Stack {
    async fn start() -> Self {
        let (encoder, mut jobs) = fake_encoder(WIDTH);
        tokio::spawn(async move { while jobs.recv().await.is_some() {} });
        let encoder = Server::encoder(encoder).await;
        let (handle, control) =
            fake_diffusion(FakeGenerator::free(WIDTH), ServiceLimits::default(), None);
        let limits = handle.info().limits;
        let diffusion = Server::diffusion(handle).await;
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let gateway = format!("http://{}", listener.local_addr().expect("bound"));
        let options = GatewayOptions {
            encoders: vec![EncoderTarget::local(encoder.url.clone())],
            diffusion: vec![diffusion.url.clone()],
            ..Default::default()
        };
        let stop = CancellationToken::new();
        tokio::spawn(gateway::run(listener, options, stop.clone()));
        let picture = http().post(format!("{gateway}/api/generate")).json(&json!({"prompt": "x"}));
        let picture = picture.send().await.expect("an answer").bytes().await.expect("a picture");
        let source = STANDARD.encode(picture);
        let _stop = stop.drop_guard();
        Self { encoder, diffusion, gateway, limits, source, _control: control, _stop }
    }

    /// `/api` or `/v1`.
    async fn http(&self, path: &str, name: &str, value: &Value) -> Verdict {
        let mut body = json!({"prompt": "x", "steps": 1});
        match name {
            "scale" => body["loras"] = json!([{"name": "a", "scale": value}]),
            name => body[name] = value.clone(),
        }
        if ["strength", "mask_blur", "only_masked"].contains(&name) {
            body["image"] = json!(self.source);
        }
        if ["mask_blur", "only_masked"].contains(&name) {
            body["mask"] = json!(self.source);
        }
        if path == "/api/encode" {
            body = json!({"prompt": "x", name: value});
        }
        let answer = http().post(format!("{}{path}", self.gateway)).json(&body).send().await;
        let answer = answer.expect("an answer");
        let status = answer.status().as_u16();
        if status == 200 || status == 202 {
            return Ok(());
        }
        let problem: Value = answer.json().await.expect("JSON");
        // There is no folder of LoRAs.
        let is_refused = status == 400 || (name, status) == ("scale", 501);
        assert!(is_refused, "{path} {name} {value}: {problem}");
        Err(problem["detail"].as_str().expect("text").to_owned())
    }

    /// gRPC; `None` if the message cannot hold such a value.
    async fn wire(&self, name: &str, value: &Value) -> Option<Verdict> {
        let refusal = |status: tonic::Status| {
            let is_refused = match status.code() {
                tonic::Code::InvalidArgument => true,
                tonic::Code::FailedPrecondition => name == "scale",
                _ => false,
            };
            assert!(is_refused, "{name} {value}: {status}");
            status.message().to_owned()
        };
        let whole = || u32::try_from(value.as_u64()?).ok();
        // Without an init image, which this call does not send, no strength leaves no step.
        if name == "strength" && value.as_f64() == Some(0.0) {
            return None;
        }
        // Within their bounds they need a mask, which this call does not send either.
        let needs_mask = Bound::of(name).filter(|_| ["mask_blur", "only_masked"].contains(&name));
        if needs_mask.is_some_and(|b| value.as_f64().is_some_and(|value| b.allows_number(value))) {
            return None;
        }
        if name == "max_tokens" {
            let request = EncodeRequest {
                prompts: vec![chat("x")],
                max_tokens: Some(whole()?),
                ..Default::default()
            };
            let mut client = EncoderClient::new(self.encoder.channel());
            return Some(client.encode(request).await.map(drop).map_err(refusal));
        }
        let mut params = GenerateParams { steps: Some(1), ..Default::default() };
        let number = value.as_f64().map(|number| number as f32);
        match name {
            "width" => params.width = Some(whole()?),
            "height" => params.height = Some(whole()?),
            "steps" => params.steps = Some(whole()?),
            "seed" => params.seed = Some(value.as_u64()?),
            "guidance_scale" => params.guidance_scale = number,
            "cfg_normalization" => params.cfg_normalization = number,
            "variation_seed" => params.variation_seed = Some(value.as_u64()?),
            "variation_strength" => params.variation_strength = number,
            "cfg_truncation" => params.cfg_truncation = number,
            "shift" => params.shift = value.as_f64(),
            "strength" => params.strength = value.as_f64(),
            "mask_blur" => params.mask_blur = value.as_f64(),
            "only_masked" => params.only_masked = Some(whole()?),
            "scale" => {
                let lora = LoraSelection { name: "a".into(), scale: number, ..Default::default() };
                params.loras = Some(LoraSet { loras: vec![lora] });
            }
            _ => return None,
        }
        let (prompt, negative) = (tensor(&[5, WIDTH], 1), tensor(&[5, WIDTH], 2));
        let mut tensors = vec![(TensorRole::Embeddings, &prompt)];
        if params.guidance_scale.is_some_and(|scale| scale > 0.0) {
            tensors.push((TensorRole::NegativeEmbeddings, &negative));
        }
        let request = request(params.clone(), &tensors);
        let mut client = DiffusionClient::new(self.diffusion.channel());
        Some(client.generate(request).await.map(drop).map_err(refusal))
    }

    /// The command, which hands its flags to the gateway; `None` if it has no such flag.
    async fn command(&self, name: &str, value: &Value) -> Option<Verdict> {
        let room = tempfile::tempdir().expect("a folder");
        let mut command = Command::new(program("llm-dit"));
        command.current_dir(room.path()).env("XDG_CONFIG_HOME", room.path());
        match name {
            "n" | "partial_images" | "output_compression" => return None,
            // What it encodes itself, before a model is loaded.
            "max_tokens" => {
                command.args(["encode", "x", "-o", "x.safetensors", "--device", "cpu"]);
                command.arg(format!("--max-tokens={value}"));
            }
            "scale" => {
                command.args(["generate", "x", "--device", "cpu"]).arg(format!("--lora=a:{value}"));
            }
            name => {
                command.args(["generate", "x", "-o", "x.png", "--gateway", &self.gateway]);
                if name != "steps" {
                    command.args(["--steps", "1"]);
                }
                command.arg(format!("--{}={value}", name.replace('_', "-")));
            }
        }
        if ["strength", "mask_blur", "only_masked"].contains(&name) {
            let source = STANDARD.decode(&self.source).expect("base64");
            std::fs::write(room.path().join("in.png"), source).expect("our own folder");
            command.args(["--image", "in.png"]);
            if name != "strength" {
                command.args(["--mask", "in.png"]);
            }
        }
        let output = spawn_blocking(move || {
            let output = command.output();
            drop(room);
            output
        });
        let output = output.await.expect("no panic").expect("the program starts");
        if output.status.success() {
            return Some(Ok(()));
        }
        Some(Err(String::from_utf8(output.stderr).expect("text")))
    }
}

/// Values at both ends, and just beyond them.
fn values(bound: &Bound, limits: &Limits) -> (Vec<Value>, Vec<Value>) {
    let side = u64::from(limits.side_multiple);
    match (bound.name, bound.range) {
        ("width" | "height", _) => {
            let (min, max) = (u64::from(limits.min_side), u64::from(limits.max_side));
            (vec![json!(min), json!(max)], vec![json!(min - side), json!(max + side), json!(-1)])
        }
        ("steps", _) => {
            let max = u64::from(limits.max_steps);
            (vec![json!(1), json!(max)], vec![json!(0), json!(max + 1), json!(-1)])
        }
        // One token does not hold the frame of a chat.
        ("max_tokens", Range::Whole(_, max)) => {
            (vec![json!(max)], vec![json!(0), json!(max + 1), json!(-1)])
        }
        (_, Range::Whole(min, max)) => {
            let above = max.checked_add(1).map(|above| json!(above));
            // 2^64, which is no whole number of JSON's readers any more.
            let above = above.unwrap_or_else(|| json!(18_446_744_073_709_551_616.0));
            let below = min.checked_sub(1).map_or(json!(-1), |below| json!(below));
            (vec![json!(min), json!(max)], vec![above, below, json!(-1)])
        }
        // 0 leaves no step to compute.
        ("strength", Range::Number(min, max)) => {
            (vec![json!(0.5), json!(max)], vec![json!(min), json!(min - 0.01), json!(max + 0.01)])
        }
        (_, Range::Number(min, max)) => {
            (vec![json!(min), json!(max)], vec![json!(min - 0.01), json!(max + 0.01)])
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_door_has_the_same_bounds() {
    let stack = Stack::start().await;
    for bound in BOUNDS {
        let name = bound.name;
        let (good, bad) = values(bound, &stack.limits);
        let is_openai = ["n", "partial_images"].contains(&name);
        let paths: &[&str] = match name {
            "max_tokens" => &["/api/encode", "/api/generate", "/v1/images/generations"],
            _ if is_openai => &["/v1/images/generations"],
            _ => &["/api/generate", "/api/jobs", "/v1/images/generations"],
        };
        let cases = good.iter().map(|value| (value, true));
        for (value, is_good) in cases.chain(bad.iter().map(|value| (value, false))) {
            let mut verdicts: Vec<(&str, Verdict)> = Vec::new();
            for path in paths {
                verdicts.push((path, stack.http(path, name, value).await));
            }
            verdicts.extend(stack.wire(name, value).await.map(|verdict| ("gRPC", verdict)));
            verdicts.extend(stack.command(name, value).await.map(|verdict| ("command", verdict)));
            for (door, verdict) in verdicts {
                let shown = format!("{door}: {name} {value}: {verdict:?}");
                match verdict {
                    // There is no LoRA of this name; its scale was accepted.
                    Err(why) if name == "scale" && is_good => {
                        assert!(!why.contains("from -1000 to 1000"), "{shown}");
                    }
                    Ok(()) => assert!(is_good, "{shown}"),
                    Err(why) => {
                        assert!(!is_good, "{shown}");
                        let names = [name.to_owned(), name.replace('_', "-")];
                        assert!(names.iter().any(|name| why.contains(name)), "{shown}");
                    }
                }
            }
        }
    }
}
