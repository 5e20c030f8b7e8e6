//! The least rate at which a client must send the body of its request.
//!
//! A client has [`Pace::credit`] to spend on waiting, and earns it back with the bytes that it
//! sends. Only the time in which we wait for the client is counted: while nobody asks for more of
//! the body, its sender may be held up by us.

use std::{
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use axum::{
    body::{Body, Bytes},
    extract::Request,
};
use http_body::{Frame, SizeHint};
use tokio::time::{self, Instant, Sleep};
use tonic::Status;

/// How slow a client may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pace {
    /// The longest pause, and what a body may be behind its rate.
    pub credit: Duration,
    /// At least one.
    pub bytes_per_second: u32,
}

/// A body that comes at a pace, or ends with an error.
struct Paced {
    body: Body,
    pace: Pace,
    left: Duration,
    waiting: Option<Waiting>,
}

/// For more of a body.
struct Waiting {
    since: Instant,
    patience: Pin<Box<Sleep>>,
}

/// The client sends too slowly.
#[derive(Debug, thiserror::Error)]
#[error(
    "the client sent less than {} bytes per second, with pauses of up to {} s",
    pace.bytes_per_second, pace.credit.as_secs_f32()
)]
struct TooSlow {
    pace: Pace,
    /// What gRPC makes of it.
    #[source]
    status: Status,
}

impl Default for Pace {
    /// 1 KiB/s, a tenth of what a slow modem sends, with pauses of up to 30 s.
    fn default() -> Self {
        Self { credit: Duration::from_secs(30), bytes_per_second: 1024 }
    }
}

impl Pace {
    /// The request with its body held to this pace.
    pub fn hold(self, request: Request) -> Request {
        request.map(|body| Body::new(Paced { body, pace: self, left: self.credit, waiting: None }))
    }

    fn earned(self, bytes: usize) -> Duration {
        Duration::from_secs_f64(bytes as f64 / f64::from(self.bytes_per_second.max(1)))
    }
}

/// Holds a request to the default pace; for `axum::middleware::map_request`.
pub async fn hold(request: Request) -> Request {
    Pace::default().hold(request)
}

impl http_body::Body for Paced {
    type Data = Bytes;
    type Error = axum::BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::BoxError>>> {
        let this = &mut *self;
        // First, so that what has come is never too late.
        if let Poll::Ready(frame) = Pin::new(&mut this.body).poll_frame(cx) {
            let spent = this.waiting.take().map(|waiting| waiting.since.elapsed());
            let sent = frame.iter().flatten().filter_map(Frame::data_ref).map(Bytes::len).sum();
            let left = this.left.saturating_sub(spent.unwrap_or_default());
            this.left = left.saturating_add(this.pace.earned(sent)).min(this.pace.credit);
            return Poll::Ready(frame.map(|frame| frame.map_err(Into::into)));
        }
        let left = this.left;
        let waiting = this.waiting.get_or_insert_with(|| Waiting {
            since: Instant::now(),
            patience: Box::pin(time::sleep(left)),
        });
        if waiting.patience.as_mut().poll(cx).is_pending() {
            return Poll::Pending;
        }
        let status = Status::deadline_exceeded("the client sends its request too slowly");
        Poll::Ready(Some(Err(Box::new(TooSlow { pace: this.pace, status }))))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use futures::StreamExt as _;
    use tokio::sync::mpsc;
    use tokio_stream::wrappers::ReceiverStream;

    use super::*;

    type Sender = mpsc::Sender<Result<Bytes, std::io::Error>>;

    fn body(credit: u64, bytes_per_second: u32) -> (Sender, axum::body::BodyDataStream) {
        let (to, from) = mpsc::channel(16);
        let pace = Pace { credit: Duration::from_millis(credit), bytes_per_second };
        let request = Request::new(Body::from_stream(ReceiverStream::new(from)));
        (to, pace.hold(request).into_body().into_data_stream())
    }

    #[tokio::test]
    async fn a_body_that_trickles_is_ended() {
        let (to, mut body) = body(50, 1);
        let trickle = tokio::spawn(async move {
            // A thousandth of the rate, without a pause that is too long.
            while to.send(Ok(Bytes::new())).await.is_ok() {
                time::sleep(Duration::from_millis(5)).await;
            }
        });
        let error = loop {
            if let Err(error) = body.next().await.expect("no end") {
                break error;
            }
        };
        assert!(error.to_string().contains("bytes per second"), "{error}");
        assert_eq!(Status::from_error(error.into()).code(), tonic::Code::DeadlineExceeded);
        drop(body);
        trickle.await.expect("no panic");
    }

    #[tokio::test]
    async fn bytes_earn_time_and_our_own_pauses_cost_none() {
        let (to, mut body) = body(60, 100);
        let send = tokio::spawn(async move {
            for _ in 0..8 {
                // 100 ms of credit for 20 ms, in all more than the credit at the beginning.
                to.send(Ok(Bytes::from_static(&[0; 10]))).await.expect("a reader");
                time::sleep(Duration::from_millis(20)).await;
            }
        });
        assert!(body.next().await.expect("the first").is_ok());
        send.await.expect("no panic");
        // Longer than the credit, but it is we who did not read.
        time::sleep(Duration::from_millis(100)).await;
        let mut chunks = 1;
        while let Some(chunk) = body.next().await {
            chunk.expect("in time");
            chunks += 1;
        }
        assert_eq!(chunks, 8);
    }

    #[tokio::test]
    async fn silence_costs_the_credit() {
        let (_to, mut body) = body(5, u32::MAX);
        assert!(body.next().await.expect("no end").is_err());
    }
}
