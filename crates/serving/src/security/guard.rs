//! Asks callers of gRPC services for a key.

use std::{
    future::{Ready, ready},
    task::{Context, Poll},
};

use futures::future::Either;
use http::{Request, Response, header::AUTHORIZATION};
use tonic::{Status, body::Body};
use tower::{Layer, Service};

use super::{Keys, keys::Denied};

/// Answered to everybody: it tells nothing but whether a service takes calls, and those who watch
/// over machines often cannot send a key.
const OPEN: &str = "/grpc.health.v1.Health/";

/// Lets only those through who have a key. Without keys, everybody.
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

impl<S, B> Service<Request<B>> for Guarded<S>
where
    S: Service<Request<B>, Response = Response<Body>>,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = Either<S::Future, Ready<Result<Response<Body>, S::Error>>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        match self.check(&request) {
            Ok(()) => Either::Left(self.inner.call(request)),
            Err(denied) => {
                let path = request.uri().path();
                tracing::info!(path, %denied, "a caller was turned away");
                Either::Right(ready(Ok(Status::unauthenticated(denied.to_string()).into_http())))
            }
        }
    }
}

impl<S> Guarded<S> {
    fn check<B>(&self, request: &Request<B>) -> Result<(), Denied> {
        match &self.keys {
            Some(keys) if !request.uri().path().starts_with(OPEN) => {
                keys.check(request.headers().get(AUTHORIZATION)).map(|_| ())
            }
            _ => Ok(()),
        }
    }
}
