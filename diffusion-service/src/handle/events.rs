//! What a running job tells its caller.

use std::{
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use futures::{Stream, StreamExt};
use llm_dit_fault::Fault;
use llm_dit_proto::Tensor;
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::WatchStream;
use tokio_util::sync::DropGuard;

use super::previews::Newest;
use crate::{engine::Step, preview::Preview};

/// In the order in which they come.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// The job is in the queue, behind so many others.
    Accepted {
        queue_position: usize,
    },
    /// Now behind so many. Only before the first step.
    Queued {
        position: usize,
    },
    Step(Step),
    /// When the job asked for them; after the step it is of, and before what comes below.
    Preview(Preview),
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
///
/// A reader that is slow gets every step and the picture, but of places in the queue and previews
/// only the newest.
#[derive(Debug)]
pub struct Events {
    accepted: Option<Event>,
    /// While the job waits.
    places: Option<WatchStream<usize>>,
    previews: Option<WatchStream<Option<Preview>>>,
    /// Its step has not been told yet.
    preview: Option<Preview>,
    /// Steps that were told.
    steps: u32,
    receiver: mpsc::Receiver<Result<Event, Fault>>,
    _stop: DropGuard,
}

impl Events {
    pub(super) fn new(
        accepted: Event,
        places: watch::Receiver<usize>,
        previews: Option<Newest>,
        receiver: mpsc::Receiver<Result<Event, Fault>>,
        stop: DropGuard,
    ) -> Self {
        Self {
            accepted: Some(accepted),
            places: Some(WatchStream::from_changes(places)),
            previews: previews.map(WatchStream::from_changes),
            preview: None,
            steps: 0,
            receiver,
            _stop: stop,
        }
    }

    /// The next event, `None` after the last.
    pub async fn next(&mut self) -> Option<Result<Event, Fault>> {
        StreamExt::next(self).await
    }

    /// The newest preview, if its step was told.
    fn preview(&mut self, cx: &mut Context<'_>) -> Option<Preview> {
        while let Some(newer) = newest(&mut self.previews, cx) {
            self.preview = newer.or(self.preview.take());
        }
        self.preview.take_if(|preview| preview.step <= self.steps)
    }
}

impl Stream for Events {
    type Item = Result<Event, Fault>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if let Some(event) = self.accepted.take() {
            return Poll::Ready(Some(Ok(event)));
        }
        if let Some(position) = newest(&mut self.places, cx) {
            return Poll::Ready(Some(Ok(Event::Queued { position })));
        }
        // Before the rest, so that the last one is never overtaken by the picture. A step is there
        // before its preview is, so waiting for the step's turn ends.
        if let Some(preview) = self.preview(cx) {
            return Poll::Ready(Some(Ok(Event::Preview(preview))));
        }
        let next = self.receiver.poll_recv(cx);
        match &next {
            Poll::Ready(Some(Ok(Event::Step(step)))) => {
                self.places = None;
                self.steps = step.index;
            }
            Poll::Ready(_) => self.previews = None,
            Poll::Pending => {}
        }
        next
    }
}

/// What has changed since the last look, until the sender is gone.
fn newest<T: Clone + Send + Sync + 'static>(
    stream: &mut Option<WatchStream<T>>,
    cx: &mut Context<'_>,
) -> Option<T> {
    match stream.as_mut()?.poll_next_unpin(cx) {
        Poll::Ready(Some(value)) => Some(value),
        Poll::Ready(None) => {
            *stream = None;
            None
        }
        Poll::Pending => None,
    }
}
