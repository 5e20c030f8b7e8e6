//! Middleware of every route of a port, HTTP or gRPC: a request id, a span that continues the
//! caller's trace, a counter and a timer.

mod call;
mod grpc;
mod status;

use axum::{
    Router,
    body::Body,
    extract::{MatchedPath, Request},
    http::{Method, header},
    middleware::{self, Next},
    response::Response,
};
use llm_dit_fault::bounded;
use tracing::{Instrument as _, Span, field::Empty};
use tracing_opentelemetry::OpenTelemetrySpanExt as _;

use self::call::{Call, Counted};
use crate::propagate;
use llm_dit_telemetry::request_id::{REQUEST_ID, RequestId};

/// Surrounds all routes that are there by now.
pub fn instrument<S: Clone + Send + Sync + 'static>(router: Router<S>) -> Router<S> {
    router.layer(middleware::from_fn(surround))
}

async fn surround(mut request: Request, next: Next) -> Response {
    let id = RequestId::of(request.headers());
    // For inner services, which read it from the request.
    request.headers_mut().insert(REQUEST_ID, id.header());
    let is_grpc = request
        .headers()
        .get(header::CONTENT_TYPE)
        .is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc"));
    let (span, call) = if is_grpc { rpc(&request, &id) } else { http(&request, &id) };
    propagate::extract(&span, request.headers());
    // Here, so that what is dropped on the way is counted as well.
    let mut counted = Counted::new(call, span.clone(), id.clone());
    let answer = id.clone().scope(next.run(request)).instrument(span);
    let mut response = answer.await;
    status::bound(response.headers_mut());
    response.headers_mut().insert(REQUEST_ID, id.header());
    counted.head(&response);
    response.map(|body| Body::new(counted.with(body)))
}

/// Spans are errors' so that a log of nothing but errors has the ids as well.
macro_rules! span {
    ($transport:literal, $id:expr, $name:expr, $($field:ident),+) => {
        tracing::error_span!(
            $transport,
            $($field,)+
            request_id = $id.as_str(),
            caller = Empty,
            otel.kind = "server",
            otel.name = $name,
            otel.status_code = Empty
        )
    };
}

fn rpc(request: &Request, id: &RequestId) -> (Span, Call) {
    let (service, method) = grpc::names(request.uri().path());
    let name = format!("{service}/{method}");
    let span = span!("grpc", id, name, method);
    span.set_attribute("rpc.system.name", "grpc");
    span.set_attribute("rpc.method", name);
    (span, Call::grpc(service, method))
}

fn http(request: &Request, id: &RequestId) -> (Span, Call) {
    let method = known(request.method());
    // It stands in every line of the request.
    let path = &*bounded(request.uri().path().to_owned());
    let route = request.extensions().get::<MatchedPath>().map(MatchedPath::as_str);
    // Any text may be asked for; what is not there has one name.
    let route = route.unwrap_or("none");
    let span = span!("http", id, format!("{method} {route}"), method, path);
    span.set_attribute("http.request.method", method);
    span.set_attribute("http.route", route.to_owned());
    span.set_attribute("url.path", path.to_owned());
    (span, Call::http(method, route))
}

/// Methods are whatever a client writes.
fn known(method: &Method) -> &'static str {
    const KNOWN: [&str; 7] = ["GET", "POST", "PUT", "DELETE", "HEAD", "OPTIONS", "PATCH"];
    KNOWN.into_iter().find(|known| method == known).unwrap_or("_OTHER")
}

#[cfg(test)]
mod tests;
