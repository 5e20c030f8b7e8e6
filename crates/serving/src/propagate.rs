//! The context of a call to another service: the request's id, and the place in its trace (W3C
//! Trace Context).

use std::task::{Context, Poll};

use axum::http::{HeaderMap, HeaderName, HeaderValue, Request};
use opentelemetry::propagation::{Extractor, Injector, TextMapPropagator as _};
use opentelemetry_sdk::propagation::TraceContextPropagator;
use tower::Service;
use tracing::Span;
use tracing_opentelemetry::OpenTelemetrySpanExt as _;

use llm_dit_telemetry::request_id::{REQUEST_ID, RequestId};

/// A connection whose calls carry the trace context of their caller.
#[derive(Clone, Debug)]
pub struct Carrying<S>(pub S);

impl<S, B> Service<Request<B>> for Carrying<S>
where
    S: Service<Request<B>>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<B>) -> S::Future {
        inject(request.headers_mut());
        self.0.call(request)
    }
}

/// Adds what the current task and span are part of. Without traces that is the request's id alone.
pub fn inject(headers: &mut HeaderMap) {
    if let Some(id) = RequestId::current() {
        headers.insert(REQUEST_ID, id.header());
    }
    TraceContextPropagator::new().inject_context(&Span::current().context(), &mut Into(headers));
}

/// Makes a span, before it is entered, a child of the trace in a caller's headers.
pub fn extract(span: &Span, headers: &HeaderMap) {
    let parent = TraceContextPropagator::new().extract(&From(headers));
    // Without a subscriber for spans there is nothing to do.
    let _ = span.set_parent(parent);
}

struct Into<'a>(&'a mut HeaderMap);
struct From<'a>(&'a HeaderMap);

impl Injector for Into<'_> {
    fn set(&mut self, key: &str, value: String) {
        let pair = (HeaderName::from_bytes(key.as_bytes()), HeaderValue::try_from(value));
        if let (Ok(key), Ok(value)) = pair {
            self.0.insert(key, value);
        }
    }
}

impl Extractor for From<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key)?.to_str().ok()
    }

    fn keys(&self) -> Vec<&str> {
        self.0.keys().map(HeaderName::as_str).collect()
    }
}
