//! `llm-dit generate --gateway URL`: the same command, computed elsewhere.

use std::time::Instant;

use llm_dit_weights::DeviceChoice;
use serde::{Deserialize, Serialize};

use crate::{
    args::{DEFAULT_HIDDEN_LAYER, DEFAULT_MAX_TOKENS, GenerateArgs},
    error::CliError,
    files,
    progress::Progress,
};

/// Body of `POST /api/generate`; what is unset is left to the model.
#[derive(Serialize)]
struct Body<'a> {
    prompt: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    negative_prompt: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    width: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    height: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    steps: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    seed: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    guidance_scale: Option<f32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cfg_normalization: Option<f32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cfg_truncation: Option<f32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    shift: Option<f64>,
    #[serde(skip_serializing_if = "str::is_empty")]
    system_prompt: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    thinking_content: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    assistant_content: &'a str,
    force_think_block: bool,
}

/// The part of an RFC 9457 problem that is for people.
#[derive(Deserialize)]
struct Problem {
    detail: String,
}

pub async fn generate(args: GenerateArgs, gateway: &str) -> Result<(), CliError> {
    let local = [
        ("--load-embeddings", args.load_embeddings.is_some()),
        ("--save-embeddings", args.save_embeddings.is_some()),
        ("--latents", args.latents.is_some()),
        ("--output-latents", args.output_latents.is_some()),
        ("--model-path", args.model.model_path.is_some()),
        ("--dtype", args.model.dtype.is_some()),
        ("--device", args.model.device != DeviceChoice::Auto),
        ("--hidden-layer", args.chat.hidden_layer != DEFAULT_HIDDEN_LAYER),
        ("--max-tokens", args.chat.max_tokens != DEFAULT_MAX_TOKENS),
    ];
    if let Some((flag, _)) = local.iter().find(|(_, given)| *given) {
        return Err(CliError::Usage(format!(
            "{flag} works in this process only; leave out --gateway"
        )));
    }
    let Some(prompt) = args.prompt()? else {
        return Err(CliError::Usage("a prompt is needed with --gateway".into()));
    };
    files::check_writable(&args.output)?;
    let progress = Progress::new(args.quiet);
    progress.stage(&format!("waiting for {gateway}"));
    let started = Instant::now();
    let request = tokio::select! {
        answer = post(&args, prompt.as_str(), gateway) => answer?,
        _ = tokio::signal::ctrl_c() => return Err(CliError::Interrupted),
    };
    let (seed, png) = request;
    files::write(&args.output, &png)?;
    progress.done(&format!(
        "{}: seed {seed}; {:.2} s",
        args.output.display(),
        started.elapsed().as_secs_f64()
    ));
    Ok(())
}

async fn post(
    args: &GenerateArgs,
    prompt: &str,
    gateway: &str,
) -> Result<(String, bytes::Bytes), CliError> {
    let body = Body {
        prompt,
        negative_prompt: &args.negative_prompt,
        width: args.width,
        height: args.height,
        steps: args.steps,
        seed: args.seed,
        guidance_scale: args.guidance_scale,
        cfg_normalization: args.cfg_normalization,
        cfg_truncation: args.cfg_truncation,
        shift: args.shift,
        system_prompt: &args.chat.system_prompt,
        thinking_content: &args.chat.thinking_content,
        assistant_content: &args.chat.assistant_content,
        force_think_block: args.chat.force_think_block,
    };
    let url = format!("{}/api/generate", gateway.trim_end_matches('/'));
    let lost = |e: reqwest::Error| {
        CliError::Failed(format!(
            "no answer from {url}: {}; is the gateway running there?",
            e.without_url()
        ))
    };
    let answer = reqwest::Client::new().post(&url).json(&body).send().await.map_err(lost)?;
    let status = answer.status();
    let header = |name: &str| {
        let value = answer.headers().get(name).and_then(|v| v.to_str().ok());
        value.unwrap_or("unknown").to_owned()
    };
    let seed = header("x-seed");
    let bytes = answer.bytes().await.map_err(lost)?;
    if !status.is_success() {
        let detail = serde_json::from_slice::<Problem>(&bytes).map(|p| p.detail);
        let detail = detail.unwrap_or_else(|_| "the answer is not from a gateway of ours".into());
        return Err(CliError::Failed(format!("the gateway answered {status}: {detail}")));
    }
    Ok((seed, bytes))
}
