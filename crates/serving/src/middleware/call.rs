//! One call from its head to the end of its answer, whether complete or not.

use std::{
    borrow::Cow,
    pin::Pin,
    task::{Context, Poll},
    time::Instant,
};

use axum::{
    body::{Body, Bytes},
    http::{HeaderMap, Response, StatusCode},
};
use http_body::{Body as _, Frame, SizeHint};
use metrics::{counter, histogram};
use tonic::Code;
use tracing::Span;
use tracing_opentelemetry::OpenTelemetrySpanExt as _;

use super::{grpc, status};
use llm_dit_telemetry::{
    metrics::{GRPC_REQUESTS, GRPC_SECONDS, HTTP_REQUESTS, HTTP_SECONDS},
    request_id::RequestId,
};

/// nginx's status for a client that left before its answer was there.
const CLIENT_LEFT: StatusCode = match StatusCode::from_u16(499) {
    Ok(status) => status,
    Err(_) => StatusCode::REQUEST_TIMEOUT,
};

/// Asked every few seconds, by machines.
const ROUTINE: [&str; 4] = ["/health", "/metrics", "Check", "Describe"];

/// The route of the call, with labels from short lists.
pub(super) enum Call {
    Http { method: &'static str, route: String, status: Option<StatusCode> },
    Grpc { service: &'static str, method: &'static str, code: Option<Code> },
}

/// Counts a call once: at the end of its answer, or when it is dropped before that.
pub(super) struct Counted {
    /// `None` once it was counted.
    call: Option<Call>,
    begun: Instant,
    span: Span,
    id: RequestId,
}

/// An answer's body.
pub(super) struct CountedBody {
    body: Body,
    counted: Counted,
}

impl Call {
    /// An HTTP request to `route`.
    pub fn http(method: &'static str, route: &str) -> Self {
        Self::Http { method, route: route.to_owned(), status: None }
    }

    /// A gRPC call of `service/method`.
    pub fn grpc(service: &'static str, method: &'static str) -> Self {
        Self::Grpc { service, method, code: None }
    }
}

impl Counted {
    /// Starts the clock of a call.
    pub fn new(call: Call, span: Span, id: RequestId) -> Self {
        Self { call: Some(call), begun: Instant::now(), span, id }
    }

    /// The answer has begun. An HTTP status is final now; a gRPC code only if it is an error that
    /// came at once.
    pub fn head(&mut self, response: &Response<Body>) {
        match &mut self.call {
            Some(Call::Http { status, .. }) => *status = Some(response.status()),
            Some(Call::Grpc { code, .. }) => *code = code_in(response.headers()),
            None => {}
        }
    }

    /// Couples the call to its answer's body: the call ends with the body.
    pub fn with(self, body: Body) -> CountedBody {
        CountedBody { body, counted: self }
    }

    fn trailers(&mut self, trailers: &HeaderMap) {
        if let Some(Call::Grpc { code, .. }) = &mut self.call {
            *code = code_in(trailers).or(*code);
        }
    }

    /// `complete`: to the last byte.
    fn end(&mut self, complete: bool) {
        let Some(call) = self.call.take() else { return };
        let took = self.begun.elapsed();
        let milliseconds = took.as_millis() as u64;
        let (outcome, failed, routine): (Cow<'static, str>, bool, bool) = match call {
            Call::Http { method, route, status } => {
                let status = status.filter(|_| complete).unwrap_or(CLIENT_LEFT);
                histogram!(HTTP_SECONDS.name, "method" => method, "route" => route.clone())
                    .record(took);
                let routine = ROUTINE.contains(&route.as_str());
                let labels = [
                    ("method", method.into()),
                    ("route", route),
                    ("status", status.as_str().to_owned()),
                ];
                counter!(HTTP_REQUESTS.name, &labels).increment(1);
                self.span.set_attribute("http.response.status_code", i64::from(status.as_u16()));
                (status.as_str().to_owned().into(), status.is_server_error(), routine)
            }
            Call::Grpc { service, method, code } => {
                // An answer without a code is none.
                let or_left = if complete { Code::Unknown } else { Code::Cancelled };
                let code = code.unwrap_or(or_left);
                let names = [("grpc_service", service), ("grpc_method", method)];
                histogram!(GRPC_SECONDS.name, &names).record(took);
                let name = grpc::code(code);
                let labels = [names[0], names[1], ("grpc_code", name)];
                counter!(GRPC_REQUESTS.name, &labels).increment(1);
                self.span.set_attribute("rpc.response.status_code", name);
                (name.into(), grpc::is_failure(code), ROUTINE.contains(&method))
            }
        };
        if failed {
            self.span.record("otel.status_code", "ERROR");
        }
        self.span.in_scope(|| {
            if routine {
                tracing::debug!(status = %outcome, milliseconds, "answered");
            } else {
                tracing::info!(status = %outcome, milliseconds, "answered");
            }
        });
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.end(false);
    }
}

impl http_body::Body for CountedBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let Self { body, counted } = &mut *self;
        // What a stream does while it is read belongs to its call.
        let entered = counted.span.clone().entered();
        let poll = || Pin::new(&mut *body).poll_frame(cx);
        let mut frame = RequestId::during(Some(counted.id.clone()), poll);
        drop(entered);
        match &mut frame {
            Poll::Ready(None) => counted.end(true),
            Poll::Ready(Some(Ok(frame))) => {
                if let Some(trailers) = frame.trailers_mut() {
                    status::bound(trailers);
                    counted.trailers(trailers);
                    counted.end(true);
                } else if body.is_end_stream() {
                    // A reader that knows the length does not ask again.
                    counted.end(true);
                }
            }
            Poll::Ready(Some(Err(_))) => counted.end(false),
            Poll::Pending => {}
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for CountedBody {
    fn drop(&mut self) {
        // An empty body, or one that did not have to be read.
        let complete = self.body.is_end_stream();
        self.counted.end(complete);
    }
}

fn code_in(headers: &HeaderMap) -> Option<Code> {
    headers.get("grpc-status").map(|code| Code::from_bytes(code.as_bytes()))
}
