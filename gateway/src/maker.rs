//! One picture, from a checked request to a file.
//!
//! Everything that a picture needs lives in the future that makes it. Whoever drops that future, be
//! it because a client went away or a job was cancelled, drops both gRPC calls, which stops the
//! work behind them before the next step.

mod events;
mod finish;
mod progress;

use std::{sync::Arc, time::Instant};

use llm_dit_chat::Chat;
use llm_dit_fault::Fault;
use llm_dit_params::{GenerateParams, LoraSet, prompt};
use llm_dit_proto::v1::{self, GenerateRequest as WireRequest, generate_request::Part};
use llm_dit_telemetry::metrics::stage;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tracing::Instrument as _;

use crate::{
    backends::{Backend, Backends, Choice, Lease, Model, Tried},
    encode::{self, Ask, Cache, Pipe},
    error::Error,
    meters::Asked,
    records::{
        picture::Made,
        progress::{Report, Stage},
        request::Request,
    },
};

use self::{events::Events, progress::ProgressReporter};

/// Chunks on their way from one service to the other.
const CHUNKS_IN_FLIGHT: usize = 4;

/// A picture's file as the diffusion service made it, and what is known of how.
struct Drawn {
    png: bytes::Bytes,
    params: GenerateParams,
    /// Tokens that were cut from the prompt and the negative prompt.
    truncated: [u32; 2],
    cached: bool,
    /// With the trigger words.
    chat: Chat,
}

/// Why an attempt came to nothing.
enum Failure {
    /// Another machine would say the same.
    Final(Error),
    /// The diffusion service could not, and had not begun.
    Diffusion(Error),
    /// An encoder broke off.
    Encoder(Arc<Backend>, Error),
}

impl<E: Into<Error>> From<E> for Failure {
    fn from(error: E) -> Self {
        Self::Final(error.into())
    }
}

/// Makes pictures with the services.
#[derive(Debug)]
pub(crate) struct Maker {
    backends: Arc<Backends>,
    cache: Arc<Cache>,
}

impl Maker {
    pub fn new(backends: Arc<Backends>, cache: Arc<Cache>) -> Self {
        Self { backends, cache }
    }

    /// Finds what is wrong with a request without beginning it, or what it comes to, its set of LoRAs
    /// included.
    pub async fn check(&self, request: &Request) -> Result<GenerateParams, Error> {
        let loras = self.loras(request)?;
        let mut tried = Tried::default();
        loop {
            let lease = self.backends.diffusion.pick(&mut tried).await?;
            let backend = Arc::clone(lease.backend());
            match lease.model().await {
                Ok(model) => {
                    let loras = loras.unwrap_or_else(|| model.loras.clone());
                    let params = request.resolve(&model, loras)?;
                    self.choice(request, &model)?;
                    return Ok(params);
                }
                Err(fault) => tried.note(&backend, fault.into())?,
            }
        }
    }

    /// Makes the picture.
    pub async fn make(&self, request: &Request, report: Report<'_>) -> Result<Made, Error> {
        let asked = Asked::begin();
        let made = self.draw_and_finish(request, report).await;
        asked.end(&made);
        made
    }

    async fn draw_and_finish(&self, request: &Request, report: Report<'_>) -> Result<Made, Error> {
        let begun = Instant::now();
        let drawn = request.deadline.bound(self.draw(request, report)).await?;
        let drew = Instant::now();
        let finishing = finish::finish(request, drawn, begun);
        let made = finishing.instrument(tracing::info_span!("finish")).await?;
        stage("finish", drew.elapsed());
        Ok(made)
    }

    async fn draw(&self, request: &Request, report: Report<'_>) -> Result<Drawn, Error> {
        let mut reporter = ProgressReporter::new(report);
        let (mut tried, mut tried_encoders) = (Tried::default(), Tried::default());
        // Once, so that all attempts are for the same picture.
        let mut loras = self.loras(request)?;
        loop {
            reporter.enter(Stage::Encoding);
            let lease = self.backends.diffusion.pick(&mut tried).await?;
            let attempt =
                self.attempt(&lease, request, &mut loras, &mut tried_encoders, &mut reporter);
            match attempt.await {
                Ok(drawn) => return Ok(drawn),
                Err(Failure::Final(error)) => return Err(error),
                Err(Failure::Diffusion(error)) => tried.note(lease.backend(), error)?,
                Err(Failure::Encoder(encoder, error)) => tried_encoders.note(&encoder, error)?,
            }
        }
    }

    async fn attempt(
        &self,
        lease: &Lease,
        request: &Request,
        loras: &mut Option<LoraSet>,
        tried_encoders: &mut Tried,
        reporter: &mut ProgressReporter<'_>,
    ) -> Result<Drawn, Failure> {
        let model = lease.model().await.map_err(|fault| Failure::Diffusion(fault.into()))?;
        let loras = loras.get_or_insert_with(|| model.loras.clone()).clone();
        let params = request.resolve(&model, loras)?;
        let mut wire = request.wire(&params, &model);
        let negative = params.uses_guidance().then(|| request.negative_prompt.clone());
        let words = params.loras.iter().flat_map(LoraSet::trigger_words);
        let user = prompt::with_triggers(words, &request.chat.user);
        let chat = Chat { user, ..request.chat.clone() };

        let pipe = match self.choice(request, &model)? {
            // It puts the trigger words there by itself.
            Choice::Theirs => {
                wire.prompt = Some(request.chat.clone().into());
                wire.negative_prompt = negative;
                None
            }
            Choice::Ours(encoder) => {
                let mut chats = vec![chat.clone()];
                chats.extend(negative.map(|text| chat.negative(text)));
                let max_tokens = request.ask.max_tokens.min(model.max_caption_tokens);
                let ask = Ask { max_tokens, deadline: request.deadline, ..request.ask };
                let begun = Instant::now();
                let pipe = encode::open(encoder, &self.cache, &chats, ask, tried_encoders)
                    .instrument(tracing::info_span!("embeddings", encoder = encoder.name))
                    .await?;
                stage("embeddings", begun.elapsed());
                Some(pipe)
            }
        };
        let cached = pipe.as_ref().is_some_and(|pipe| pipe.cached);
        let begun = Instant::now();
        let drawing = async {
            let (mut events, truncated) = send(lease, wire, pipe, request, &model).await?;
            let accepted = events.accepted().await.map_err(Failure::Diffusion)?;
            let png = events.picture(&accepted, reporter).await?;
            Ok::<_, Failure>((png, accepted, truncated))
        };
        let span = tracing::info_span!("draw", url = lease.url());
        let (png, accepted, truncated) = drawing.instrument(span).await?;
        stage("draw", begun.elapsed());
        let cut = [accepted.truncated_tokens, accepted.negative_truncated_tokens];
        let truncated = [truncated[0].max(cut[0]), truncated[1].max(cut[1])];
        let seed = accepted.params.and_then(|params| params.seed);
        if seed.is_some_and(|seed| seed != params.seed) {
            tracing::warn!(seed, asked = params.seed, "the diffusion service used another seed");
        }
        Ok(Drawn { png, params, truncated, cached, chat })
    }

    /// The set that a request names, or that `/api/loras/apply` left; `None` leaves it to the service.
    fn loras(&self, request: &Request) -> Result<Option<LoraSet>, Error> {
        match &request.loras {
            Some(named) => Ok(Some(named.clone())),
            None => Ok(self.backends.loras.set()?),
        }
    }

    fn choice(&self, request: &Request, model: &Model) -> Result<Choice<'_>, Fault> {
        let wish = request.body.encoder.as_deref();
        let choice = self.backends.encoder(wish, model.has_encoder)?;
        let asks = request.body.hidden_layer.is_some() || request.body.max_tokens.is_some();
        if asks && matches!(choice, Choice::Theirs) {
            return Err(Fault::Unsupported(
                "the diffusion service's own encoder supports neither hidden_layer nor max_tokens; select another encoder".to_owned(),
            ));
        }
        Ok(choice)
    }
}

/// Hands a request over, while its embeddings are still coming.
async fn send<'a>(
    lease: &'a Lease,
    params: v1::GenerateParams,
    mut pipe: Option<Pipe>,
    request: &Request,
    model: &Model,
) -> Result<(Events<'a>, [u32; 2]), Failure> {
    let (to, requests) = mpsc::channel(CHUNKS_IN_FLIGHT);
    // There is room, and the receiver is here.
    let _ = to.try_send(WireRequest { part: Some(Part::Params(params)) });
    let mut client = lease.diffusion();
    let answer = client.generate(request.deadline.request(ReceiverStream::new(requests)));
    tokio::pin!(answer);
    let early = {
        let pump = async {
            if let Some(pipe) = &mut pipe
                && let Err(error) = pipe.pump(model.cap_feat_dim, &to).await
            {
                return Err(match pipe.lease() {
                    Some(encoder) => Failure::Encoder(Arc::clone(encoder.backend()), error),
                    None => Failure::Final(error),
                });
            }
            for part in request.image.iter().flat_map(|image| image.parts()) {
                if to.send(part).await.is_err() {
                    break;
                }
            }
            Ok(())
        };
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
    let answer = answer.map_err(|status| Failure::Diffusion(lease.remote.fault(status).into()))?;
    let truncated = pipe.as_ref().map(Pipe::truncated).unwrap_or_default();
    Ok((Events::new(lease, answer.into_inner()), truncated))
}
