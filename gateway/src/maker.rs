//! The way of a request: from a checked request to an image file.
//!
//! [`Maker::make`] is the way, from top to bottom: it leases a diffusion service, gets the
//! embeddings, has the service draw, and finishes the file. A service that fails before it began
//! gives its turn to another one.
//!
//! Everything that a picture needs lives in the future that makes it. Whoever drops that future, be
//! it because a client went away or a job was cancelled, drops both gRPC calls, which stops the
//! work behind them before the next step.

mod checked;
mod events;
mod finish;
mod outcome;
mod progress;
mod send;

use std::{sync::Arc, time::Instant};

use llm_dit_chat::Chat;
use llm_dit_fault::Fault;
use llm_dit_memory::MemoryBudget;
use llm_dit_params::{GenerateParams, LoraSet, prompt};
use llm_dit_telemetry::metrics::stage;
use tracing::Instrument as _;

use crate::{
    backends::{Backends, Choice, Lease, Tried},
    encode::{self, Cache},
    error::Error,
    meters::Asked,
    records::{
        model::Model,
        picture::Made,
        progress::{Report, Stage},
        request::{Ask, Request},
    },
};

use self::{
    checked::Checked,
    finish::{finish, memory_of},
    outcome::{Drawn, Failure},
    progress::ProgressReporter,
    send::send,
};

/// The set of a request: `chosen`, or the service's default. The defaults, the gateway's too, are for
/// the default model; one that a request names has no other LoRAs than those of the request.
fn own_loras(
    request: &Request,
    service: &Model,
    model: &Model,
    chosen: Option<LoraSet>,
) -> LoraSet {
    let is_default = model.name == service.name;
    match chosen.filter(|_| is_default || request.loras.is_some()) {
        Some(chosen) => chosen,
        None => model.loras.clone(),
    }
}

/// Makes pictures with the services.
#[derive(Debug)]
pub(crate) struct Maker {
    backends: Arc<Backends>,
    cache: Arc<Cache>,
    pub memory: MemoryBudget,
}

impl Maker {
    pub fn new(backends: Arc<Backends>, cache: Arc<Cache>, memory: MemoryBudget) -> Self {
        Self { backends, cache, memory }
    }

    /// Whether a diffusion service can be asked, as far as is known.
    pub fn has_service(&self) -> bool {
        self.backends.diffusion.all().iter().any(|backend| backend.state().condition.is_usable())
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
                Ok(service) => match service.named(request.body.model.as_deref()) {
                    Ok(model) => {
                        let loras = own_loras(request, &service, model, loras);
                        let params = request.resolve(model, loras)?;
                        self.choice(request, model)?;
                        return Ok(params);
                    }
                    Err(error) => tried.skip(&backend, error.into()),
                },
                Err(fault) => tried.note(&backend, fault.into())?,
            }
        }
    }

    /// Makes the picture.
    pub async fn make(&self, request: &Request, report: Report<'_>) -> Result<Made, Error> {
        let asked = Asked::begin();
        let begun = Instant::now();
        let made = async {
            let drawn = request.deadline.bound(self.draw(request, report)).await?;
            finish(request, drawn, begun).instrument(tracing::info_span!("finish")).await
        };
        let made = made.await;
        asked.end(&made);
        made
    }

    /// Attempts it until a service succeeds or each has failed.
    async fn draw(&self, request: &Request, report: Report<'_>) -> Result<Drawn, Error> {
        let mut reporter = ProgressReporter::new(report);
        let mut tried = Tried::until_crashes(request.max_crashes);
        let mut tried_encoders = Tried::default();
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
                Err(Failure::Lacks(error)) => tried.skip(lease.backend(), error),
                Err(Failure::Encoder(encoder, error)) => tried_encoders.note(&encoder, error)?,
            }
        }
    }

    /// One diffusion service draws it.
    async fn attempt(
        &self,
        lease: &Lease,
        request: &Request,
        loras: &mut Option<LoraSet>,
        tried_encoders: &mut Tried,
        reporter: &mut ProgressReporter<'_>,
    ) -> Result<Drawn, Failure> {
        let service = lease.model().await.map_err(|fault| Failure::Diffusion(fault.into()))?;
        let model = service
            .named(request.body.model.as_deref())
            .map_err(|error| Failure::Lacks(error.into()))?;
        let set = own_loras(request, &service, model, loras.take());
        *loras = Some(set.clone());
        let params = request.resolve(model, set)?;
        // Before a service works at an image that would find no room.
        let memory =
            self.memory.reserve("the image", memory_of(request.size(&params), request.format))?;
        let mut wire = request.wire(&params, model);
        let negative = params.uses_guidance().then(|| request.negative_prompt.clone());
        let words = params.loras.iter().flat_map(LoraSet::trigger_words);
        let user = prompt::with_triggers(words, &request.chat.user);
        let chat = Chat { user, ..request.chat.clone() };

        let pipe = match self.choice(request, model)? {
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
            let (mut events, tokens) = send(lease, wire, pipe, request, model).await?;
            let accepted = events.accepted().await.map_err(Failure::Diffusion)?;
            let size = request.size(&params);
            let png = events.picture(&accepted, params.forwards(), size, reporter).await?;
            let image = Checked::new(png, size, &lease.remote.place())
                .map_err(|error| Failure::of_answer(reporter, error))?;
            Ok::<_, Failure>((image, accepted, tokens))
        };
        let span = tracing::info_span!("draw", url = lease.url());
        let (image, accepted, tokens) = drawing.instrument(span).await?;
        stage("draw", begun.elapsed());
        // Who fetched the embeddings knows what was cut.
        let theirs = [
            (accepted.prompt_tokens, accepted.truncated_tokens),
            (accepted.negative_prompt_tokens, accepted.negative_truncated_tokens),
        ];
        let larger = |i: usize| (tokens[i].0.max(theirs[i].0), tokens[i].1.max(theirs[i].1));
        let tokens = [larger(0), larger(1)];
        let seed = accepted.params.and_then(|params| params.seed);
        if seed.is_some_and(|seed| seed != params.seed) {
            tracing::warn!(seed, asked = params.seed, "the diffusion service used another seed");
        }
        Ok(Drawn { image, params, tokens, cached, chat, memory })
    }

    /// The set that a request names, or that `/api/loras/apply` left; `None` leaves it to the service.
    fn loras(&self, request: &Request) -> Result<Option<LoraSet>, Error> {
        match &request.loras {
            Some(named) => Ok(Some(named.clone())),
            None => Ok(self.backends.loras.set()?),
        }
    }

    fn choice(&self, request: &Request, model: &Model) -> Result<Choice<'_>, Fault> {
        let requested = request.body.encoder.as_deref();
        let choice = self.backends.encoder(requested, model.has_encoder)?;
        let body = &request.body;
        let asks =
            body.hidden_layer.is_some() || body.max_tokens.is_some() || body.truncate.is_some();
        if asks && matches!(choice, Choice::Theirs) {
            return Err(Fault::Unsupported(
                "the diffusion service's own encoder supports neither hidden_layer nor max_tokens nor truncate; select another encoder".to_owned(),
            ));
        }
        Ok(choice)
    }
}
