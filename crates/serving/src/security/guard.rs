//! Requires a key of the callers of gRPC services.

use std::{
    future::{Ready, ready},
    task::{Context, Poll},
};

use futures::future::Either;
use http::{
    HeaderValue, Request, Response, StatusCode,
    header::{AUTHORIZATION, CONTENT_TYPE, WWW_AUTHENTICATE},
};
use tonic::Status;
use tower::{Layer, Service};

use super::{Keys, keys::Denied};

/// Answered without a key: it reveals only whether a service takes calls, and monitoring systems
/// often cannot send a key.
const OPEN: &str = "/grpc.health.v1.Health/";

/// Admits only requests with an accepted key; without keys, all requests.
#[derive(Clone, Debug)]
pub struct Guard {
    keys: Option<Keys>,
}

/// What stands behind it.
#[derive(Clone, Debug)]
pub struct Guarded<S> {
    keys: Option<Keys>,
    inner: S,
}

impl Guard {
    /// A guard that accepts these keys; `None` accepts every call.
    pub fn new(keys: Option<Keys>) -> Self {
        Self { keys }
    }
}

impl<S> Layer<S> for Guard {
    type Service = Guarded<S>;

    fn layer(&self, inner: S) -> Guarded<S> {
        Guarded { keys: self.keys.clone(), inner }
    }
}

impl<S, B, R: Default> Service<Request<B>> for Guarded<S>
where
    S: Service<Request<B>, Response = Response<R>>,
{
    type Response = Response<R>;
    type Error = S::Error;
    type Future = Either<S::Future, Ready<Result<Response<R>, S::Error>>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        match self.check(&request) {
            Ok(()) => Either::Left(self.inner.call(request)),
            Err(denied) => {
                tracing::info!(%denied, "rejected an unauthenticated request");
                Either::Right(ready(Ok(refusal(&request, &denied))))
            }
        }
    }
}

/// In words of gRPC, or of HTTP where that was spoken.
fn refusal<B, R: Default>(request: &Request<B>, denied: &Denied) -> Response<R> {
    let mut response = Status::unauthenticated(denied.to_string()).into_http();
    let kind = request.headers().get(CONTENT_TYPE);
    if kind.is_none_or(|kind| !kind.as_bytes().starts_with(b"application/grpc")) {
        *response.status_mut() = StatusCode::UNAUTHORIZED;
        response.headers_mut().remove(CONTENT_TYPE);
        response.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    }
    response
}

impl<S> Guarded<S> {
    fn check<B>(&self, request: &Request<B>) -> Result<(), Denied> {
        match &self.keys {
            Some(keys) if !request.uri().path().starts_with(OPEN) => {
                let name = keys.check(request.headers().get(AUTHORIZATION))?;
                tracing::Span::current().record("caller", &*name);
                Ok(())
            }
            _ => Ok(()),
        }
    }
}
