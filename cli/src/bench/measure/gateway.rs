//! All of it: a prompt to the bytes of a PNG, over HTTP, through the three services of
//! `llm-dit serve`.

use std::{
    path::Path,
    sync::atomic::{AtomicU64, Ordering},
};

use diffusion_service::{DiffusionHandle, ServiceLimits};
use encoder_service::{EncoderHandle, EncoderLimits, engine::TextEncoder};
use gateway::KeepOptions;
use llm_dit_chat::{Chat, ChatTokenizer};
use llm_dit_serving::{client, security::ClientTls};
use llm_dit_z_image::ZImage;
use serde_json::json;
use tokio::{runtime::Handle, task::JoinHandle};
use tokio_util::sync::CancellationToken;

use super::{Lines, Setup};
use crate::{
    bench::row::Row,
    error::CliError,
    serve::{Services, loopback},
};

/// The services and the gateway before them.
struct Server {
    url: String,
    services: Services,
    gateway: JoinHandle<Result<(), gateway::Error>>,
    stop: CancellationToken,
    client: reqwest::Client,
    /// Pictures that were asked for.
    asked: AtomicU64,
}

/// Measures pictures through a gateway and its two services. The models move into the services and
/// are dropped with them; `tokenizer` is the folder of a tokenizer.
///
/// # Errors
///
/// [`CliError`] if the services cannot be started or the report cannot be written.
pub fn rows(
    setup: &Setup,
    encoder: Box<dyn TextEncoder>,
    diffusion: ZImage,
    tokenizer: &Path,
    lines: &mut Lines<'_>,
) -> Result<(), CliError> {
    let tokenizer = ChatTokenizer::from_folder(tokenizer).map_err(CliError::failed)?;
    let words = words(&tokenizer, setup.text_tokens as usize)?;
    let device = lines.device();
    let runtime = Handle::current();
    let encoder = EncoderHandle::spawn(encoder, tokenizer, EncoderLimits::default());
    let diffusion = DiffusionHandle::spawn(Box::new(diffusion), ServiceLimits::default(), None);
    let server = runtime.block_on(Server::start(
        encoder.map_err(CliError::failed)?,
        diffusion.map_err(CliError::failed)?,
    ))?;
    for &size in &setup.sizes {
        let name = format!("gateway {size}x{size} x{}", setup.forwards);
        lines.measure(&name, || {
            let times = setup.slow_clock().time(&[&device], || {
                runtime.block_on(server.picture(&words, size, setup.forwards))
            })?;
            Ok::<_, Failed>(Row::new(&name, &times))
        })?;
    }
    runtime.block_on(server.end())
}

impl Server {
    async fn start(encoder: EncoderHandle, diffusion: DiffusionHandle) -> Result<Self, CliError> {
        let stop = CancellationToken::new();
        let (url, listener) = loopback().await?;
        let services = Services::start(Some(encoder), diffusion, &stop).await?;
        let options = services.gateway(KeepOptions::default());
        let gateway = tokio::spawn(gateway::run(listener, options, stop.clone()));
        let client = client::http(&url, &ClientTls::default()).map_err(CliError::failed)?;
        let client = client.build().map_err(CliError::failed)?;
        Ok(Self { url, services, gateway, stop, client, asked: AtomicU64::new(0) })
    }

    /// No prompt comes twice, so that no embeddings are remembered.
    async fn picture(&self, words: &str, size: u32, steps: u32) -> Result<usize, Failed> {
        let number = self.asked.fetch_add(1, Ordering::Relaxed);
        let body = json!({
            "prompt": prompt(number, words), "seed": 42, "guidance_scale": 0.0,
            "width": size, "height": size, "steps": steps,
        });
        let request = self.client.post(format!("{}/api/generate", self.url)).json(&body);
        let answer = request.send().await?;
        let status = answer.status();
        let bytes = answer.bytes().await?;
        if !status.is_success() || !bytes.starts_with(b"\x89PNG") {
            let said = String::from_utf8_lossy(&bytes).into_owned();
            return Err(Failed(format!("the gateway answered {status}: {said}")));
        }
        Ok(bytes.len())
    }

    async fn end(self) -> Result<(), CliError> {
        self.stop.cancel();
        let answered = self.gateway.await.map_err(CliError::failed)?;
        self.services.end().await?;
        answered.map_err(CliError::failed)
    }
}

fn prompt(number: u64, words: &str) -> String {
    format!("{number:06}{words}")
}

/// So many words after the number that the whole chat has `tokens` tokens, or one more at most if
/// words were whole tokens.
fn words(tokenizer: &ChatTokenizer, tokens: usize) -> Result<String, CliError> {
    let mut words = String::new();
    loop {
        let chat = Chat::user(prompt(0, &words));
        let counts = tokenizer.count(&chat).map_err(CliError::failed)?;
        if counts.total >= tokens {
            return Ok(words);
        }
        words.push_str(" apple");
    }
}

/// Why no picture came.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Failed(String);

impl From<reqwest::Error> for Failed {
    fn from(error: reqwest::Error) -> Self {
        Self(error.to_string())
    }
}

impl From<candle_core::Error> for Failed {
    fn from(error: candle_core::Error) -> Self {
        Self(error.to_string())
    }
}
