//! `POST /api/generate`: from JSON to a picture.
//!
//! Everything a request needs lives in the future that answers it. A client that goes away makes
//! the HTTP server drop that future, which drops both gRPC calls, which stops the work behind them.

use std::time::Instant;

use axum::{
    extract::{Request, State},
    http::{HeaderValue, header},
    response::{IntoResponse as _, Response},
};
use bytes::{Bytes, BytesMut};
use llm_dit_proto::v1::{
    Accepted, GenerateEvent, GenerateParams, GenerateRequest as WireRequest, ImageHeader,
    generate_event::Event, generate_request::Part,
};
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
    /// Tokens cut from the prompt by the encoder that we piped from.
    truncated_tokens: u32,
}

/// What came out.
struct Picture {
    media_type: String,
    file: Bytes,
    seed: u64,
    truncated_tokens: u32,
}

pub(crate) async fn generate(
    State(backends): State<Backends>,
    request: Request,
) -> Result<Response, Problem> {
    let begun = Instant::now();
    let body: GenerateBody = body::json(request, &GenerateBody::FIELDS).await?;
    let generation = Generation::start(&backends, body.check()?).await?;
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
    if picture.truncated_tokens > 0 {
        headers.insert("x-truncated-tokens", picture.truncated_tokens.into());
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
                let wire = GenerateParams { prompt: Some(chat), negative_prompt: negative, ..wire };
                let request = tokio_stream::once(message(wire));
                let answer = backends.diffusion_client().generate(request).await;
                let events = answer.map_err(|s| backends.diffusion.fault(s))?.into_inner();
                Ok(Self { backends, events, truncated_tokens: 0 })
            }
            Some(encoder) => {
                let negative = negative.map(|text| chat.negative(text));
                let prompts = std::iter::once(chat).chain(negative).collect();
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
        Ok(Self { backends, events, truncated_tokens: pipe.truncated_tokens() })
    }

    /// Collects the picture.
    async fn picture(mut self) -> Result<Picture, Error> {
        let Event::Accepted(Accepted { params: Some(params), truncated_tokens, .. }) =
            self.next().await?
        else {
            return Err(self.broke("did not begin with its parameters"));
        };
        let Some(seed) = params.seed else {
            return Err(self.broke("did not say its seed"));
        };
        let header = loop {
            match self.next().await? {
                Event::Step(step) => {
                    tracing::debug!(step.index, step.total, step.seconds, "step");
                }
                Event::Image(header) => break header,
                Event::Accepted(_) | Event::Latents(_) | Event::Data(_) | Event::Finished(_) => {
                    return Err(self.broke("sent no picture"));
                }
            }
        };
        let file = self.file(&header).await?;
        let truncated_tokens = self.truncated_tokens.max(truncated_tokens);
        Ok(Picture { media_type: header.media_type, file, seed, truncated_tokens })
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

fn message(params: GenerateParams) -> WireRequest {
    WireRequest { part: Some(Part::Params(params)) }
}
