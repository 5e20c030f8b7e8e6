//! `llmdit.v1.Diffusion`: the wire's messages to and from [`DiffusionHandle`].

mod image;
mod loras;
mod pull;
mod upload;

use std::time::{Duration, Instant};

use futures::{
    Stream, StreamExt as _,
    stream::{self, BoxStream},
};
use llm_dit_fault::Fault;
use llm_dit_params::{GenerateParams, Start};
use llm_dit_proto::{
    Tensor, tensor,
    v1::{
        self, Accepted, ApplyLorasRequest, ApplyLorasResponse, ClearLorasRequest,
        ClearLorasResponse, DescribeDiffusionRequest, DiffusionDescription, Finished,
        GenerateEvent, GenerateRequest, ImageHeader, ListLorasRequest, ListLorasResponse, Queued,
        StepDone,
        diffusion_server::{Diffusion, DiffusionServer},
        generate_event::Event as Wire,
    },
};
use llm_dit_serving::{
    BoundListener, Deadline,
    grpc::{GrpcServer, MAX_MESSAGE_BYTES, Serving},
};
use llm_dit_telemetry::metrics::{Direction, stage, tensor_bytes};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};
use tracing::Instrument as _;

use self::{pull::Pulled, upload::Upload};
use crate::{
    DiffusionHandle, Event,
    engine::{GenerateJob, PreviewOptions},
    picture, preview,
};

/// Serves the generator until `shutdown` fires and the running requests are done.
pub fn run(
    bound: impl Into<BoundListener>,
    handle: DiffusionHandle,
    shutdown: CancellationToken,
) -> Serving {
    serve(bound.into(), handle, shutdown)
}

fn serve(bound: BoundListener, handle: DiffusionHandle, shutdown: CancellationToken) -> Serving {
    handle.look_after_engine();
    let server = GrpcServer::default()
        .grace(handle.limits().grace.duration())
        .health(handle.health().clone());
    let service =
        DiffusionServer::new(Service { handle }).max_decoding_message_size(MAX_MESSAGE_BYTES);
    server.service(service).serve(bound, shutdown)
}

struct Service {
    handle: DiffusionHandle,
}

type EventStream = BoxStream<'static, Result<GenerateEvent, Status>>;

#[tonic::async_trait]
impl Diffusion for Service {
    async fn describe(
        &self,
        _: Request<DescribeDiffusionRequest>,
    ) -> Result<Response<DiffusionDescription>, Status> {
        Ok(Response::new(self.handle.describe()))
    }

    type GenerateStream = EventStream;

    /// Answers once the job is queued. Everything that is wrong with a request is therefore the
    /// status of the call itself; what fails later ends the stream of events.
    async fn generate(
        &self,
        request: Request<Streaming<GenerateRequest>>,
    ) -> Result<Response<EventStream>, Status> {
        let span = tracing::info_span!("generate", seed = tracing::field::Empty);
        let deadline = Deadline::of(request.metadata());
        let events = self.events(request.into_inner(), deadline).instrument(span);
        Ok(Response::new(deadline.bound(events).await?))
    }

    async fn list_loras(
        &self,
        _: Request<ListLorasRequest>,
    ) -> Result<Response<ListLorasResponse>, Status> {
        Ok(Response::new(loras::list(&self.handle).await?))
    }

    async fn apply_loras(
        &self,
        request: Request<ApplyLorasRequest>,
    ) -> Result<Response<ApplyLorasResponse>, Status> {
        let span = tracing::info_span!("apply_loras");
        Ok(Response::new(loras::apply(&self.handle, request.into_inner()).instrument(span).await?))
    }

    async fn clear_loras(
        &self,
        _: Request<ClearLorasRequest>,
    ) -> Result<Response<ClearLorasResponse>, Status> {
        Ok(Response::new(loras::clear(&self.handle).await?))
    }
}

impl Service {
    async fn events(
        &self,
        requests: Streaming<GenerateRequest>,
        deadline: Deadline,
    ) -> Result<EventStream, Fault> {
        let begun = Instant::now();
        let mut upload = Upload::read(requests, &self.handle).await?;
        tracing::Span::current().record("seed", upload.params.seed);
        let source = match upload.image {
            Some(file) => {
                Some(image::decode(file, upload.mask, &upload.params, &self.handle).await?)
            }
            None => None,
        };
        let (source, masked) = source.map_or((None, None), |(image, masked)| (Some(image), masked));
        let (mask, paste) = masked.map(|masked| (masked.mask, masked.paste)).unzip();
        if let Some(paste) = &paste {
            upload.admission.hold_paste(paste)?;
        }
        let pull_begun = Instant::now();
        let (pulled, encode) = match upload.embeddings {
            Some(embeddings) => {
                let negative_embeddings = upload.negative_embeddings;
                (Pulled::brought(embeddings, negative_embeddings), Duration::ZERO)
            }
            None => {
                let (params, loras) = (&upload.params, &upload.loras);
                let pulling =
                    pull::embeddings(&self.handle, params, loras, upload.prompt, deadline);
                let pulled = pulling.instrument(tracing::info_span!("pull")).await?;
                let took = pull_begun.elapsed();
                stage("pull", took);
                (pulled, took)
            }
        };
        let tokens = |tensor: &Tensor| tensor.shape().first().map_or(0, |n| *n as u32);
        let prompt_tokens = tokens(&pulled.embeddings);
        let negative_prompt_tokens = pulled.negative_embeddings.as_ref().map_or(0, tokens);
        let loras = upload.loras.iter().map(v1::LoraSelection::from).collect();
        let job = GenerateJob {
            params: upload.params.clone(),
            loras: upload.loras,
            embeddings: pulled.embeddings,
            negative_embeddings: pulled.negative_embeddings,
            latents: upload.latents,
            image: source,
            mask,
            return_latents: upload.return_latents,
            preview: upload.preview,
        };
        let start = job.start();
        // Beside the deadline nothing stops the work but the stream's end, however it comes.
        let timer = deadline.start();
        let events =
            self.handle.generate_admitted(job, paste, upload.admission, timer.token()).await?;
        let context = Context {
            begun,
            encode,
            params: upload.params,
            loras,
            start,
            return_latents: upload.return_latents,
            preview: upload.preview,
            truncated_tokens: pulled.truncated_tokens,
            negative_truncated_tokens: pulled.negative_truncated_tokens,
            prompt_tokens,
            negative_prompt_tokens,
        };
        Ok(context.translate(timer.explain(events)))
    }
}

fn sent(bytes: usize) {
    tensor_bytes("diffusion", Direction::Sent, bytes);
}

/// What the wire's events say beyond the handle's.
struct Context {
    begun: Instant,
    encode: Duration,
    params: GenerateParams,
    loras: Vec<v1::LoraSelection>,
    start: Start,
    return_latents: bool,
    preview: Option<PreviewOptions>,
    truncated_tokens: u32,
    negative_truncated_tokens: u32,
    prompt_tokens: u32,
    negative_prompt_tokens: u32,
}

impl Context {
    fn translate(
        self,
        events: impl Stream<Item = Result<Event, Fault>> + Send + 'static,
    ) -> EventStream {
        events
            .flat_map(move |event| {
                stream::iter(match event {
                    Ok(event) => self
                        .messages(event)
                        .into_iter()
                        .map(|event| Ok(GenerateEvent { event: Some(event) }))
                        .collect::<Vec<_>>(),
                    Err(fault) => vec![Err(Status::from(fault))],
                })
            })
            .boxed()
    }

    /// One event as one or more messages; data is sliced, not copied.
    fn messages(&self, event: Event) -> Vec<Wire> {
        match event {
            Event::Accepted { queue_position } => vec![Wire::Accepted(Accepted {
                queue_position: queue_position as u32,
                params: Some(self.params()),
                truncated_tokens: self.truncated_tokens,
                negative_truncated_tokens: self.negative_truncated_tokens,
                prompt_tokens: self.prompt_tokens,
                negative_prompt_tokens: self.negative_prompt_tokens,
            })],
            Event::Queued { position } => {
                vec![Wire::Queued(Queued { position: position as u32 })]
            }
            Event::Preview(preview) => vec![Wire::Preview(v1::Preview {
                step: preview.step,
                total: preview.total,
                media_type: preview::MEDIA_TYPE.to_owned(),
                width: preview.width,
                height: preview.height,
                data: preview.jpeg,
            })],
            Event::Step(step) => vec![Wire::Step(StepDone {
                index: step.index,
                total: step.total,
                seconds: step.duration.as_secs_f64(),
            })],
            Event::Latents(latents) => {
                sent(latents.bytes().len());
                std::iter::once(Wire::Latents(latents.header()))
                    .chain(latents.chunks().map(Wire::Data))
                    .collect()
            }
            Event::Image(image) => {
                sent(image.png.len());
                let header = ImageHeader {
                    media_type: picture::MEDIA_TYPE.to_owned(),
                    width: image.width,
                    height: image.height,
                    total_bytes: image.png.len() as u64,
                    role: 0,
                };
                std::iter::once(Wire::Image(header))
                    .chain(tensor::chunks(image.png).map(Wire::Data))
                    .collect()
            }
            Event::Finished(timings) => vec![Wire::Finished(Finished {
                encode_seconds: self.encode.as_secs_f64(),
                queue_seconds: timings.queue.as_secs_f64(),
                denoise_seconds: timings.denoise.as_secs_f64(),
                decode_seconds: timings.decode.as_secs_f64(),
                image_seconds: timings.image.as_secs_f64(),
                total_seconds: self.begun.elapsed().as_secs_f64(),
            })],
        }
    }

    /// Every parameter as it is used.
    fn params(&self) -> v1::GenerateParams {
        v1::GenerateParams {
            return_latents: self.return_latents,
            model: self.params.model.clone(),
            loras: Some(v1::LoraSet { loras: self.loras.clone() }),
            preview: self.preview.map(|preview| v1::PreviewOptions {
                every_steps: preview.every(),
                max_side: preview.max_side(),
            }),
            ..v1::GenerateParams::used(&self.params, self.start)
        }
    }
}
