//! `llm-dit generate --gateway URL`: the same command, computed elsewhere.

use std::time::Instant;

use bytes::Bytes;
use llm_dit_recipe::Lora;
use llm_dit_settings::Settings;
use serde::{Deserialize, Serialize};
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;

use crate::{
    args::{DEFAULT_HIDDEN_LAYER, DEFAULT_MAX_TOKENS},
    error::CliError,
    generate::{Item, Made, Report, Studio},
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
    #[serde(skip_serializing_if = "Option::is_none")]
    scheduler: Option<&'a str>,
    #[serde(skip_serializing_if = "str::is_empty")]
    system_prompt: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    thinking_content: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    assistant_content: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    enable_thinking: Option<bool>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    raw_special_tokens: bool,
}

/// The part of an RFC 9457 problem that is for people.
#[derive(Deserialize)]
struct Problem {
    detail: String,
}

/// Flags that a gateway cannot honour.
const LOCAL: [&str; 23] = [
    "load-embeddings",
    "save-embeddings",
    "latents",
    "output-latents",
    "image",
    "strength",
    "model-path",
    "dit-path",
    "text-encoder-path",
    "vae-path",
    "lora",
    "lora-trigger",
    "dtype",
    "text-encoder-dtype",
    "text-encoder-device",
    "dit-device",
    "vae-device",
    "vae-dtype",
    "cpu-offload",
    "device",
    "hidden-layer",
    "api-url",
    "max-tokens",
];

/// A gateway that is asked for each picture.
pub struct Remote<'a> {
    url: String,
    client: reqwest::Client,
    stop: &'a CancellationToken,
}

/// What came back.
struct Answer {
    seed: String,
    /// Tokens that were cut, when some were.
    truncated: Option<String>,
    negative_truncated: Option<String>,
    png: Bytes,
}

impl<'a> Remote<'a> {
    pub fn open(gateway: &str, stop: &'a CancellationToken) -> Self {
        let url = format!("{}/api/generate", gateway.trim_end_matches('/'));
        Self { url, client: reqwest::Client::new(), stop }
    }

    /// Refuses what only this process can do. What a configuration file says of this machine is for
    /// when this machine computes.
    pub fn check(settings: &Settings) -> Result<(), CliError> {
        match LOCAL.iter().find(|flag| settings.is_explicit(&flag.replace('-', "_"))) {
            Some(flag) => Err(CliError::Usage(format!(
                "--{flag} works in this process only; leave out --gateway"
            ))),
            None => Ok(()),
        }
    }

    async fn post(&self, item: &Item) -> Result<Answer, CliError> {
        let settings = &item.settings;
        let body = Body {
            prompt: text(&settings.prompt),
            negative_prompt: text(&settings.negative_prompt),
            width: settings.width,
            height: settings.height,
            steps: settings.steps,
            seed: settings.seed,
            guidance_scale: settings.guidance_scale,
            cfg_normalization: settings.cfg_normalization,
            cfg_truncation: settings.cfg_truncation,
            shift: settings.shift,
            scheduler: settings.scheduler.as_deref(),
            system_prompt: text(&settings.system_prompt),
            thinking_content: text(&settings.thinking_content),
            assistant_content: text(&settings.assistant_content),
            enable_thinking: settings.enable_thinking,
            raw_special_tokens: settings.raw_special_tokens.unwrap_or_default(),
        };
        let url = &self.url;
        let lost = |e: reqwest::Error| {
            CliError::Failed(format!(
                "no answer from {url}: {}; is the gateway running there?",
                e.without_url()
            ))
        };
        let answer = self.client.post(url).json(&body).send().await.map_err(lost)?;
        let status = answer.status();
        let header = |name: &str| {
            answer.headers().get(name).and_then(|v| v.to_str().ok()).map(str::to_owned)
        };
        let seed = header("x-seed").unwrap_or_else(|| "unknown".to_owned());
        let truncated = header("x-truncated-tokens");
        let negative_truncated = header("x-truncated-negative-tokens");
        let png = answer.bytes().await.map_err(lost)?;
        if !status.is_success() {
            let detail = serde_json::from_slice::<Problem>(&png).map(|p| p.detail);
            let detail =
                detail.unwrap_or_else(|_| "the answer is not from a gateway of ours".into());
            let place = &item.place;
            return Err(CliError::Failed(format!(
                "{place}the gateway answered {status}: {detail}"
            )));
        }
        Ok(Answer { seed, truncated, negative_truncated, png })
    }
}

impl Studio for Remote<'_> {
    fn model(&self) -> Option<String> {
        None
    }

    fn loras(&self) -> Result<Option<Vec<Lora>>, CliError> {
        Ok(None)
    }

    /// The gateway checks parameters; what it cannot be asked for is refused here.
    fn resolve(&self, item: &mut Item) -> Result<u32, CliError> {
        let settings = &item.settings;
        let local = [
            ("load_embeddings", settings.load_embeddings.is_some()),
            ("latents", settings.latents.is_some()),
            ("image", settings.image.is_some()),
            ("hidden_layer", settings.hidden_layer.is_some_and(|n| n != DEFAULT_HIDDEN_LAYER)),
            ("max_tokens", settings.max_tokens.is_some_and(|n| n != DEFAULT_MAX_TOKENS)),
        ];
        match local.iter().find(|(_, given)| *given) {
            Some((name, _)) => {
                Err(item.usage(format!("{name} works in this process only; leave out --gateway")))
            }
            None => {
                item.settings.strength = None;
                Ok(0)
            }
        }
    }

    fn prepare(&mut self, _: &[Item], progress: &Progress) -> Result<(), CliError> {
        progress.stage(&format!("waiting for {}", self.url));
        Ok(())
    }

    fn make(&mut self, item: &Item, _: Report<'_>) -> Result<Made, CliError> {
        let started = Instant::now();
        let answer = Handle::current().block_on(async {
            tokio::select! {
                answer = self.post(item) => answer,
                () = self.stop.cancelled() => Err(CliError::interrupted()),
            }
        })?;
        let said = format!("seed {}; {:.2} s", answer.seed, started.elapsed().as_secs_f64());
        let cut = [("prompt", answer.truncated), ("negative prompt", answer.negative_truncated)];
        let notes = cut.into_iter().filter_map(|(what, tokens)| {
            Some(format!(
                "{}the {what} is {} tokens too long; its end was cut",
                item.place, tokens?
            ))
        });
        Ok(Made { png: answer.png, prompt: None, said, notes: notes.collect() })
    }
}

fn text(text: &Option<String>) -> &str {
    text.as_deref().unwrap_or_default()
}
