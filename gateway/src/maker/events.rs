//! What a diffusion service answers.

use bytes::{Bytes, BytesMut};
use llm_dit_proto::v1::{Accepted, GenerateEvent, ImageHeader, generate_event::Event};
use llm_dit_serving::client::drain_in_background;
use tonic::Streaming;

use super::{finish::max_file_bytes, outcome::Failure, progress::ProgressReporter};
use crate::{
    backends::Lease,
    error::Error,
    records::progress::{Preview, Stage},
};

/// Far above any preview of ours; larger ones are not shown.
const MAX_PREVIEW_BYTES: usize = 256 * 1024;
const MAX_MEDIA_TYPE_BYTES: usize = 64;
/// Messages of an answer that belong to no step, such as new positions in a queue.
const MAX_MESSAGES: u32 = 10_000;
/// Messages for each step: that it is done, and a preview.
const MAX_MESSAGES_PER_STEP: u32 = 8;

/// An answer that has begun.
pub(super) struct Events<'a> {
    lease: &'a Lease,
    events: Streaming<GenerateEvent>,
    /// Whether the service works at this request; others wait before or behind it.
    running: bool,
    /// Messages without data of the image that may still come.
    left: u32,
}

impl<'a> Events<'a> {
    pub fn new(lease: &'a Lease, events: Streaming<GenerateEvent>) -> Self {
        Self { lease, events, running: false, left: MAX_MESSAGES }
    }

    /// The first event.
    pub async fn accepted(&mut self) -> Result<Accepted, Error> {
        match self.next_unless_silent().await? {
            Event::Accepted(accepted) => {
                self.running = accepted.queue_position == 0;
                Ok(accepted)
            }
            _ => Err(self.broke("did not begin with its parameters")),
        }
    }

    /// All events up to the image, which has `size` and takes `forwards` steps. Another service may
    /// start the same image until a step has been reported.
    pub async fn picture(
        mut self,
        accepted: &Accepted,
        forwards: u32,
        size: (u32, u32),
        reporter: &mut ProgressReporter<'_>,
    ) -> Result<Bytes, Failure> {
        reporter.queued(accepted.queue_position);
        self.left += forwards.saturating_mul(MAX_MESSAGES_PER_STEP).min(u32::MAX - MAX_MESSAGES);
        let mut position = accepted.queue_position;
        let mut last_step = 0;
        let header = loop {
            // What a client has heard of steps cannot be taken back.
            let event = match reporter.has_reported_steps() {
                true => self.next().await,
                false => self.next_unless_silent().await,
            };
            match event.map_err(|error| Failure::of_answer(reporter, error))? {
                Event::Queued(queued) => {
                    self.running = queued.position == 0;
                    if queued.position != position {
                        position = queued.position;
                        reporter.queued(position);
                    }
                }
                Event::Step(step) => {
                    if !(last_step + 1..=step.total).contains(&step.index) || step.total > forwards
                    {
                        return Err(Failure::of_answer(
                            reporter,
                            self.broke("sent steps that do not exist"),
                        ));
                    }
                    last_step = step.index;
                    self.running = true;
                    tracing::debug!(step.index, step.total, step.seconds, "step");
                    reporter.step(step.index, step.total, step.seconds);
                }
                Event::Preview(preview)
                    if preview.data.len() <= MAX_PREVIEW_BYTES
                        && preview.media_type.len() <= MAX_MEDIA_TYPE_BYTES =>
                {
                    reporter.preview(Preview {
                        step: preview.step,
                        steps: preview.total,
                        media_type: preview.media_type,
                        file: preview.data,
                    });
                }
                Event::Preview(_) => {}
                Event::Image(header) => break header,
                Event::Accepted(_) | Event::Latents(_) | Event::Data(_) | Event::Finished(_) => {
                    return Err(Failure::of_answer(reporter, self.broke("sent no image")));
                }
            }
        };
        if last_step == 0 {
            // A picture that takes no steps.
            reporter.enter(Stage::Decoding);
        }
        let max_bytes = max_file_bytes(size);
        let file = self
            .file(&header, max_bytes)
            .await
            .map_err(|error| Failure::of_answer(reporter, error))?;
        drain_in_background(self.events);
        Ok(file)
    }

    async fn file(&mut self, header: &ImageHeader, max_bytes: u64) -> Result<Bytes, Error> {
        if header.total_bytes > max_bytes {
            return Err(self.broke("announced an image of an invalid size"));
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
                | Event::Image(_) => return Err(self.broke("ended the image early")),
            }
        }
    }

    async fn next_unless_silent(&mut self) -> Result<Event, Error> {
        let lease = self.lease;
        lease.unless_silent(self.next()).await
    }

    async fn next(&mut self) -> Result<Event, Error> {
        loop {
            match self.events.message().await {
                // Bounded by the announced size.
                Ok(Some(GenerateEvent { event: Some(Event::Data(chunk)) }))
                    if !chunk.is_empty() =>
                {
                    return Ok(Event::Data(chunk));
                }
                Ok(Some(_)) if self.left == 0 => return Err(self.broke("sent too many events")),
                Ok(Some(GenerateEvent { event })) => {
                    self.left -= 1;
                    // Without one, it is of a kind that only newer services know.
                    if let Some(event) = event {
                        return Ok(event);
                    }
                }
                Ok(None) => return Err(self.broke("ended its answer early")),
                Err(status) if self.running => {
                    return Err(match Error::of_sent(&self.lease.remote, status) {
                        Error::Fault(fault) => Error::midway(fault),
                        crash => crash,
                    });
                }
                Err(status) => return Err(Error::midway(self.lease.remote.fault(status))),
            }
        }
    }

    fn broke(&self, what: &str) -> Error {
        Error::Lost(format!("{} {what}", self.lease.remote.place()))
    }
}
