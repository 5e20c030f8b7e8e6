//! What a running job tells its caller.

use std::{
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use futures::{Stream, StreamExt};
use llm_dit_proto::{Fault, Tensor};
use tokio::sync::mpsc;
use tokio_util::sync::DropGuard;

use crate::engine::Step;

/// In the order in which they come.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// The job is in the queue, behind so many others.
    Accepted {
        queue_position: usize,
    },
    Step(Step),
    /// When the job asked for them.
    Latents(Tensor),
    Image(Image),
    /// The last one.
    Finished(Timings),
}

/// A PNG file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    pub width: u32,
    pub height: u32,
    pub png: Bytes,
}

/// Where the time went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timings {
    /// Waiting for the engine.
    pub queue: Duration,
    pub denoise: Duration,
    /// Latents to pixels.
    pub decode: Duration,
    /// Pixels to PNG.
    pub image: Duration,
}

/// The events of one job, ending after [`Event::Finished`] or the first fault. Dropping this stops
/// the job before its next step.
#[derive(Debug)]
pub struct Events {
    accepted: Option<Event>,
    receiver: mpsc::Receiver<Result<Event, Fault>>,
    _stop: DropGuard,
}

impl Events {
    pub(super) fn new(
        accepted: Event,
        receiver: mpsc::Receiver<Result<Event, Fault>>,
        stop: DropGuard,
    ) -> Self {
        Self { accepted: Some(accepted), receiver, _stop: stop }
    }

    /// The next event, `None` after the last.
    pub async fn next(&mut self) -> Option<Result<Event, Fault>> {
        StreamExt::next(self).await
    }
}

impl Stream for Events {
    type Item = Result<Event, Fault>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        match self.accepted.take() {
            Some(event) => Poll::Ready(Some(Ok(event))),
            None => self.receiver.poll_recv(cx),
        }
    }
}
