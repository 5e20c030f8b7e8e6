//! Serving gRPC: health, reflection, bounds, and an orderly end.
//!
//! The caller binds the listener and owns the shutdown token. When it fires, health turns to
//! NOT_SERVING, no new connection or call is taken, and what runs may finish within a grace period.
//! Until then health is that of the engine.

use std::{
    convert::Infallible,
    future::{Future, pending},
    io,
    time::Duration,
};

use axum::{extract, middleware};
use futures::{Stream, future::BoxFuture};
use llm_dit_proto::FILE_DESCRIPTOR_SET;
use tokio::{
    net::{TcpListener, TcpStream},
    time,
};
use tokio_util::sync::CancellationToken;
use tonic::{
    body::Body,
    codegen::{
        Service,
        http::{Request, Response},
    },
    server::NamedService,
    service::Routes,
    transport::{
        Server,
        server::{Router, TcpIncoming},
    },
};
use tonic_health::{ServingStatus, server::HealthReporter};

use crate::{
    BoundListener,
    connections::{Counted, Opened},
    http2, instrument, pace,
    security::guard::Guard,
    shutdown::Grace,
};
use llm_dit_engine::{Condition, EngineHealth};
use llm_dit_telemetry::metrics;

/// Largest gRPC message a service takes: a chunk of a tensor, or a request with its texts.
pub const MAX_MESSAGE_BYTES: usize = 4 * 1024 * 1024;

/// Why serving ended before it was told to.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    #[error("the listening socket failed: {0}")]
    Socket(#[from] io::Error),
    #[error("gRPC reflection cannot be built: {0}")]
    Reflection(#[from] tonic_reflection::server::Error),
    #[error("gRPC serving failed: {0}")]
    Transport(#[from] tonic::transport::Error),
}

/// A server at work. Boxed where it is made: the code of a plain future would be compiled in every
/// program and every test that awaits it, and half of each was a server.
pub type Serving = BoxFuture<'static, Result<(), ServeError>>;

/// Services to serve on one port.
#[derive(Debug)]
pub struct GrpcServer {
    routes: Routes,
    /// Names of ours, for grpc.health.v1.
    names: Vec<&'static str>,
    grace: Duration,
    health: EngineHealth,
}

impl Default for GrpcServer {
    fn default() -> Self {
        let (grace, health) = (Grace::default().duration(), EngineHealth::default());
        Self { routes: Routes::default(), names: Vec::new(), grace, health }
    }
}

impl GrpcServer {
    /// Adds a service.
    pub fn service<S>(mut self, service: S) -> Self
    where
        S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>
            + NamedService
            + Clone
            + Send
            + Sync
            + 'static,
        S::Future: Send + 'static,
    {
        self.names.push(S::NAME);
        self.routes = self.routes.add_service(service);
        self
    }

    /// Replaces [`Grace::default`].
    pub fn grace(mut self, grace: Duration) -> Self {
        self.grace = grace;
        self
    }

    /// Health is that of this engine.
    pub fn health(mut self, health: EngineHealth) -> Self {
        self.health = health;
        self
    }

    /// Serves until `shutdown` fires and what ran by then has ended, or the grace period has.
    pub fn serve(self, bound: impl Into<BoundListener>, shutdown: CancellationToken) -> Serving {
        self.boxed(bound.into(), shutdown)
    }

    fn boxed(self, bound: BoundListener, shutdown: CancellationToken) -> Serving {
        Box::pin(self.run(bound, shutdown))
    }

    async fn run(
        self,
        bound: BoundListener,
        shutdown: CancellationToken,
    ) -> Result<(), ServeError> {
        let BoundListener { listener, security, connections } = bound;
        let address = listener.local_addr()?;
        let Self { routes, names, grace, health } = self;
        let (reporter, health_service) = tonic_health::server::health_reporter();
        let mut condition = health.watch();
        let now = *condition.borrow_and_update();
        tell(&reporter, &names, now).await;
        let reflection = || {
            tonic_reflection::server::Builder::configure()
                .register_encoded_file_descriptor_set(FILE_DESCRIPTOR_SET)
                .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        };
        let routes = routes
            .add_service(health_service)
            .add_service(reflection().build_v1()?)
            // grpcurl and others still ask for the older one.
            .add_service(reflection().build_v1alpha()?);
        let routes = routes.into_axum_router().route("/metrics", metrics::route(None));
        // Callers that are turned away are counted as well.
        let routes = instrument(routes.layer(Guard::new(security.keys)));
        let routes = Routes::from(routes.layer(middleware::map_request(admitted)));

        let served = names.clone();
        let drain = {
            let shutdown = shutdown.clone();
            async move {
                let follow = async {
                    while condition.changed().await.is_ok() {
                        let now = *condition.borrow_and_update();
                        tell(&reporter, &names, now).await;
                    }
                    // There is no receiver left for more answers.
                    pending::<()>().await;
                };
                tokio::select! {
                    () = shutdown.cancelled() => {}
                    () = follow => {}
                }
                not_serving(reporter, &names).await;
            }
        };
        let mut server = server();
        if let Some(tls) = &security.tls {
            server = server.tls_config(tls.grpc())?;
        }
        let router = server.add_routes(routes);
        tracing::info!(%address, services = ?served, "serving gRPC");
        let serving = serve_until(router, connections.admit(incoming(listener)), drain);
        let overtime = async {
            shutdown.cancelled().await;
            time::sleep(grace).await;
        };
        tokio::select! {
            result = serving => {
                tracing::info!(%address, "gRPC server stopped");
                Ok(result?)
            }
            () = overtime => {
                let seconds = grace.as_secs();
                tracing::warn!(%address, seconds, "the grace period is over; unfinished requests are aborted");
                Ok(())
            }
        }
    }
}

/// A request of a connection that waits for none any more, held to the least rate.
async fn admitted(request: extract::Request) -> extract::Request {
    if let Some(opened) = request.extensions().get::<Opened>() {
        opened.set();
    }
    pace::hold(request).await
}

fn server() -> Server {
    Server::builder()
        .http2_keepalive_interval(Some(http2::KEEPALIVE_INTERVAL))
        .http2_keepalive_timeout(Some(http2::KEEPALIVE_TIMEOUT))
        .max_concurrent_streams(http2::MAX_STREAMS)
        .http2_max_header_list_size(http2::MAX_HEADER_BYTES)
        .http2_max_pending_accept_reset_streams(Some(http2::MAX_PENDING_RESETS))
        .http2_max_local_error_reset_streams(Some(http2::MAX_ERROR_RESETS))
        // For `GET /metrics`; Prometheus speaks nothing newer without encryption.
        .accept_http1(true)
}

fn incoming(listener: TcpListener) -> TcpIncoming {
    TcpIncoming::from(listener).with_nodelay(Some(true))
}

async fn serve_until(
    router: Router,
    incoming: impl Stream<Item = io::Result<Counted<TcpStream>>>,
    drain: impl Future<Output = ()>,
) -> Result<(), tonic::transport::Error> {
    router.serve_with_incoming_shutdown(incoming, drain).await
}

/// The engine's condition, as the services' and the whole server's.
async fn tell(health: &HealthReporter, names: &[&'static str], condition: Condition) {
    let status =
        if condition.is_healthy() { ServingStatus::Serving } else { ServingStatus::NotServing };
    for name in names.iter().chain(&[""]) {
        health.set_service_status(name, status).await;
    }
}

/// Notifies every watcher, and then ends the watches, which would keep their connections open.
async fn not_serving(mut health: HealthReporter, names: &[&'static str]) {
    for name in names.iter().chain(&[""]) {
        health.set_service_status(name, ServingStatus::NotServing).await;
        health.clear_service_status(name).await;
    }
}
