//! `llm-dit generate --gateway URL`: the same command, computed by a gateway.

mod answer;
mod body;
mod events;
mod read;

use std::time::Instant;

use llm_dit_recipe::Lora;
use llm_dit_settings::Settings;
use reqwest::header::ACCEPT;
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;

use self::{
    answer::{Answer, Unanswered},
    body::Body,
    events::EVENTS,
};
use super::{
    item::Item,
    report::{Times, Truncated},
    studio::{Deliver, Made, Report, Studio},
};
use crate::{args::GenerateArgs, error::CliError, progress::Progress};

/// Flags that a gateway cannot honour.
const LOCAL: [&str; 22] = [
    "load-embeddings",
    "save-embeddings",
    "latents",
    "output-latents",
    "model-path",
    "dit-path",
    "text-encoder-path",
    "vae-path",
    "comfyui",
    "dtype",
    "text-encoder-dtype",
    "text-encoder-device",
    "dit-device",
    "vae-device",
    "vae-dtype",
    "vae-tiling",
    "max-batch",
    "cpu-offload",
    "max-vram",
    "weights",
    "device",
    "api-url",
];

/// A gateway that is asked for each picture.
pub struct Remote<'a> {
    url: String,
    client: reqwest::Client,
    model: Option<String>,
    /// Those of the command line; `None` leaves them to the gateway.
    loras: Option<Vec<Lora>>,
    stop: &'a CancellationToken,
}

impl<'a> Remote<'a> {
    /// A client of `gateway` for `generate`. Connects with the first request.
    ///
    /// # Errors
    ///
    /// [`CliError`] if the key or a certificate cannot be used.
    pub fn open(
        gateway: &str,
        args: &GenerateArgs,
        loras: Option<Vec<Lora>>,
        stop: &'a CancellationToken,
    ) -> Result<Self, CliError> {
        let url = format!("{}/api/generate", gateway.trim_end_matches('/'));
        let client = args.gateway.client(&url)?;
        Ok(Self { url, client, model: args.model_name.clone(), loras, stop })
    }

    /// Refuses flags that need the engines of this process. Those of a configuration file are
    /// ignored: they apply when this machine computes.
    ///
    /// # Errors
    ///
    /// [`CliError::Usage`] with the flag.
    pub fn check(settings: &Settings) -> Result<(), CliError> {
        match LOCAL.iter().find(|flag| settings.is_explicit(&flag.replace('-', "_"))) {
            Some(flag) => Err(CliError::Usage(format!("--{flag} is not supported with --gateway"))),
            None => Ok(()),
        }
    }

    async fn post(&self, item: &Item, report: Report<'_>) -> Result<Answer, CliError> {
        let (model, loras) = (self.model.as_deref(), self.loras.as_deref());
        let body = Body::new(item, model, loras);
        // Older gateways know no events, and answer with the picture alone.
        let request = self.client.post(&self.url).header(ACCEPT, EVENTS).json(&body);
        let answer = match request.send().await {
            Ok(answer) => read::read(answer, report).await,
            Err(error) => Err(error.into()),
        };
        answer.map_err(|unanswered| {
            let (url, place) = (&self.url, &item.place);
            match unanswered {
                Unanswered::Lost(cause) => CliError::Failed(format!(
                    "no response from {url}: {cause}; check that the gateway is running"
                )),
                Unanswered::Problem(status, said) => {
                    let said = format!("{place}the gateway answered {said}");
                    // It refuses the request, as this process would have.
                    match status {
                        Some(400 | 404 | 413 | 415 | 422) => CliError::Usage(said),
                        _ => CliError::Failed(said),
                    }
                }
                Unanswered::Strange(why) => {
                    CliError::Failed(format!("{place}the gateway at {url} {why}"))
                }
            }
        })
    }
}

impl Studio for Remote<'_> {
    fn model(&self) -> Option<String> {
        self.model.clone()
    }

    fn loras(&self) -> Result<Option<Vec<Lora>>, CliError> {
        Ok(self.loras.clone())
    }

    /// The gateway checks parameters; what it cannot be asked for is refused here.
    fn resolve(&self, item: &mut Item) -> Result<u32, CliError> {
        let settings = &item.settings;
        let local = [
            ("load_embeddings", settings.load_embeddings.is_some()),
            ("latents", settings.latents.is_some()),
        ];
        match local.iter().find(|(_, given)| *given) {
            Some((name, _)) => Err(item.usage(format!("{name} is not supported with --gateway"))),
            None => {
                if item.image.is_none() {
                    item.settings.strength = None;
                }
                Ok(0)
            }
        }
    }

    fn prepare(&mut self, _: &[Item], progress: &Progress) -> Result<(), CliError> {
        progress.stage(&format!("waiting for {}", self.url));
        Ok(())
    }

    /// A gateway is asked for one at a time.
    fn together(&self, _: &[Item]) -> Result<usize, CliError> {
        Ok(1)
    }

    fn make(
        &mut self,
        items: &[Item],
        report: Report<'_>,
        deliver: Deliver<'_>,
    ) -> Result<(), CliError> {
        items.iter().try_for_each(|item| deliver(item, self.make_one(item, report)?))
    }
}

impl Remote<'_> {
    fn make_one(&self, item: &Item, report: Report<'_>) -> Result<Made, CliError> {
        let started = Instant::now();
        let answer = Handle::current().block_on(async {
            tokio::select! {
                answer = self.post(item, report) => answer,
                () = self.stop.cancelled() => Err(CliError::interrupted()),
            }
        })?;
        let took = started.elapsed();
        let said = format!("seed {}; {:.2} s", answer.seed, took.as_secs_f64());
        let count = |tokens: &Option<String>| tokens.as_ref().and_then(|n| n.parse().ok());
        let truncated = Truncated {
            prompt: count(&answer.truncated).unwrap_or_default(),
            negative_prompt: count(&answer.negative_truncated).unwrap_or_default(),
        };
        let times = Times { request: Some(took), ..Times::default() };
        let cut = [("prompt", answer.truncated), ("negative prompt", answer.negative_truncated)];
        let notes = cut.into_iter().filter_map(|(what, tokens)| {
            Some(format!(
                "{}the {what} is {} tokens too long; its end was truncated",
                item.place, tokens?
            ))
        });
        let notes = notes.collect();
        Ok(Made { png: answer.png, prompt: None, said, notes, times, truncated })
    }
}
