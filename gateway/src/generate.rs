//! `POST /api/generate`: from JSON to a picture.
//!
//! Everything a request needs lives in the future that answers it. A client that goes away makes
//! the HTTP server drop that future, which drops both gRPC calls, which stops the work behind them.

use std::{sync::Arc, time::Instant};

use axum::{
    extract::{Request, State},
    http::{HeaderValue, header},
    response::{IntoResponse as _, Response},
};
use bytes::{Bytes, BytesMut};
use llm_dit_chat::Chat;
use llm_dit_params::prompt;
use llm_dit_proto::v1::{
    self, Accepted, GenerateEvent, GenerateParams, GenerateRequest as WireRequest, ImageHeader,
    generate_event::Event, generate_request::Part,
};
use llm_dit_templates::Library;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

use crate::{
    backends::Backends,
    body,
    error::Error,
    pipe::Pipe,
    problem::Problem,
    request::{self, GenerateBody, GenerateRequest},
};

/// Chunks on their way from one service to the other.
const CHUNKS_IN_FLIGHT: usize = 4;

/// Far above any PNG of ours; bounds what a confused service can make us hold.
const MAX_IMAGE_BYTES: u64 = 256 * 1024 * 1024;

/// A picture under way.
struct Generation<'a> {
    backends: &'a Backends,
    events: Streaming<GenerateEvent>,
    /// Tokens cut from the prompts by the encoder that we piped from.
    truncated: Truncated,
}

/// Tokens that did not fit.
#[derive(Clone, Copy, Default)]
pub(crate) struct Truncated {
    pub prompt: u32,
    pub negative: u32,
}

/// What came out.
struct Picture {
    media_type: String,
    file: Bytes,
    seed: u64,
    truncated: Truncated,
}

pub(crate) async fn generate(
    State(backends): State<Backends>,
    State(templates): State<Arc<Library>>,
    request: Request,
) -> Result<Response, Problem> {
    let begun = Instant::now();
    let body: GenerateBody = body::json(request, &GenerateBody::FIELDS).await?;
    let generation = Generation::start(&backends, body.check(&templates)?).await?;
    let picture = generation.picture().await?;
    let seconds = begun.elapsed().as_secs_f64();
    tracing::info!(picture.seed, bytes = picture.file.len(), seconds, "made a picture");

    let mut response = picture.file.into_response();
    let headers = response.headers_mut();
    let media_type = HeaderValue::from_str(&picture.media_type)
        .unwrap_or(HeaderValue::from_static("application/octet-stream"));
    headers.insert(header::CONTENT_TYPE, media_type);
    headers.insert("x-seed", picture.seed.into());
    if let Ok(value) = HeaderValue::from_str(&format!("{seconds:.3}")) {
        headers.insert("x-generation-time", value);
    }
    let Truncated { prompt, negative } = picture.truncated;
    for (name, tokens) in
        [("x-truncated-tokens", prompt), ("x-truncated-negative-tokens", negative)]
    {
        if tokens > 0 {
            headers.insert(name, tokens.into());
        }
    }
    Ok(response)
}

impl<'a> Generation<'a> {
    /// Checks the parameters against the model, and hands the request to the services.
    async fn start(backends: &'a Backends, request: GenerateRequest) -> Result<Self, Error> {
        let model = backends.describe().await?;
        let params = request.options.resolve(&model.defaults, &model.limits)?;
        let wire = request::params(&params);
        let GenerateRequest { chat, negative_prompt, .. } = request;
        let negative = params.uses_guidance().then_some(negative_prompt);
        match backends.encoder_for(model.has_encoder) {
            None => {
                let prompt = Some(chat.into());
                let wire = GenerateParams { prompt, negative_prompt: negative, ..wire };
                let request = tokio_stream::once(message(wire));
                let answer = backends.diffusion_client().generate(request).await;
                let events = answer.map_err(|s| backends.diffusion.fault(s))?.into_inner();
                Ok(Self { backends, events, truncated: Truncated::default() })
            }
            Some(encoder) => {
                let negative = negative.map(|text| chat.negative(text));
                let words = model.trigger_words.iter().map(String::as_str);
                let user = prompt::with_triggers(words, &chat.user);
                let chat = Chat { user, ..chat };
                let chats = std::iter::once(chat).chain(negative);
                let prompts = chats.map(v1::Chat::from).collect();
                let pipe = Pipe::open(encoder, &model, prompts).await?;
                Self::piped(backends, wire, pipe).await
            }
        }
    }

    async fn piped(
        backends: &'a Backends,
        params: GenerateParams,
        mut pipe: Pipe<'_>,
    ) -> Result<Self, Error> {
        let (to, requests) = mpsc::channel(CHUNKS_IN_FLIGHT);
        // There is room, and the receiver is here.
        let _ = to.try_send(message(params));
        let mut client = backends.diffusion_client();
        let answer = client.generate(ReceiverStream::new(requests));
        tokio::pin!(answer);
        let early = {
            let pump = pipe.pump(&to);
            tokio::pin!(pump);
            tokio::select! {
                biased;
                // An encoder that fails is the cause, whatever the other side then says. Leaving
                // here drops the call before its request ends, so it cannot pass for complete.
                pumped = &mut pump => { pumped?; None }
                early = &mut answer => match early {
                    Ok(early) => { pump.await?; Some(Ok(early)) }
                    Err(refusal) => Some(Err(refusal)),
                },
            }
        };
        drop(to);
        let answer = match early {
            Some(answer) => answer,
            None => answer.await,
        };
        let events = answer.map_err(|s| backends.diffusion.fault(s))?.into_inner();
        Ok(Self { backends, events, truncated: pipe.truncated() })
    }

    /// Collects the picture.
    async fn picture(mut self) -> Result<Picture, Error> {
        let Event::Accepted(accepted) = self.next().await? else {
            return Err(self.broke("did not begin with its parameters"));
        };
        let Some(seed) = accepted.params.as_ref().and_then(|params| params.seed) else {
            return Err(self.broke("did not say its seed"));
        };
        let header = loop {
            match self.next().await? {
                Event::Step(step) => {
                    tracing::debug!(step.index, step.total, step.seconds, "step");
                }
                Event::Queued(_) | Event::Preview(_) => {}
                Event::Image(header) => break header,
                Event::Accepted(_) | Event::Latents(_) | Event::Data(_) | Event::Finished(_) => {
                    return Err(self.broke("sent no picture"));
                }
            }
        };
        let file = self.file(&header).await?;
        let truncated = self.truncated.or(&accepted);
        Ok(Picture { media_type: header.media_type, file, seed, truncated })
    }

    async fn file(&mut self, header: &ImageHeader) -> Result<Bytes, Error> {
        if header.total_bytes > MAX_IMAGE_BYTES {
            return Err(self.broke("announced a picture of absurd size"));
        }
        let mut file = BytesMut::new();
        loop {
            match self.next().await? {
                Event::Data(chunk) => {
                    file.extend_from_slice(&chunk);
                    if file.len() as u64 > header.total_bytes {
                        return Err(self.broke("sent more bytes than it announced"));
                    }
                }
                Event::Finished(_) if file.len() as u64 == header.total_bytes => {
                    return Ok(file.freeze());
                }
                Event::Finished(_)
                | Event::Accepted(_)
                | Event::Step(_)
                | Event::Queued(_)
                | Event::Preview(_)
                | Event::Latents(_)
                | Event::Image(_) => return Err(self.broke("cut the picture short")),
            }
        }
    }

    async fn next(&mut self) -> Result<Event, Error> {
        match self.events.message().await {
            Ok(Some(GenerateEvent { event: Some(event) })) => Ok(event),
            Ok(Some(GenerateEvent { event: None })) => Err(self.broke("sent an empty message")),
            Ok(None) => Err(self.broke("ended its answer early")),
            Err(status) => Err(Error::midway(self.backends.diffusion.fault(status))),
        }
    }

    fn broke(&self, what: &str) -> Error {
        Error::Lost(format!("the diffusion service at {} {what}", self.backends.diffusion.url()))
    }
}

impl Truncated {
    /// Either we piped, or the diffusion service fetched the embeddings and knows.
    fn or(self, accepted: &Accepted) -> Self {
        Self {
            prompt: self.prompt.max(accepted.truncated_tokens),
            negative: self.negative.max(accepted.negative_truncated_tokens),
        }
    }
}

fn message(params: GenerateParams) -> WireRequest {
    WireRequest { part: Some(Part::Params(params)) }
}
