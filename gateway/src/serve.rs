//! Serving the routes: encryption, bounds on connections, and an orderly end.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use axum::Router;
use axum_server::{
    Handle, Server,
    accept::{Accept, NoDelayAcceptor},
    tls_rustls::{RustlsAcceptor, RustlsConfig},
};
use futures::future::BoxFuture;
use llm_dit_serving::{
    BoundListener, Security,
    connections::{AcceptErrors, Connections, Counted},
    http2,
};
use parking_lot::Mutex;
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;

use crate::{app::app, error::Error, guard::Guard, options::GatewayOptions, state::AppState};

/// For the head of a request, and between two requests of a connection.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);

/// Serves until `shutdown` fires and the running requests and jobs are done, or the grace period is
/// over. Until then it answers that it is not ready, and what becomes of the jobs.
///
/// Boxed here, so that who awaits it does not have to compile the whole gateway.
pub fn run(
    bound: impl Into<BoundListener>,
    options: GatewayOptions,
    shutdown: CancellationToken,
) -> BoxFuture<'static, Result<(), Error>> {
    boxed(bound.into(), options, shutdown)
}

fn boxed(
    bound: BoundListener,
    options: GatewayOptions,
    shutdown: CancellationToken,
) -> BoxFuture<'static, Result<(), Error>> {
    Box::pin(answer(bound, options, shutdown))
}

async fn answer(
    bound: BoundListener,
    options: GatewayOptions,
    shutdown: CancellationToken,
) -> Result<(), Error> {
    let (state, app) = open(&options, &bound.security).await?;
    let (address, scheme) = (bound.address().map_err(Error::Socket)?, bound.scheme());
    let listener = bound.listener.into_std().map_err(Error::Socket)?;
    tracing::info!(%address, scheme, diffusion = ?options.diffusion, "serving HTTP");
    let handle = Handle::new();
    let server = axum_server::from_tcp(listener).map_err(Error::Socket)?.handle(handle.clone());
    let first_request = bound.connections.first_request();
    let counting = Counting(bound.connections);
    let serving = async {
        match bound.security.tls {
            Some(tls) => {
                let config = RustlsConfig::from_config(tls.http());
                let acceptor = RustlsAcceptor::new(config).acceptor(counting);
                serve(server.acceptor(acceptor), first_request, app).await
            }
            None => serve(server.acceptor(counting), first_request, app).await,
        }
    };
    let drain = async {
        shutdown.cancelled().await;
        let over = tokio::time::Instant::now() + options.grace.duration();
        // Connections are accepted until then, for clients that ask for the state of their jobs.
        let _ = tokio::time::timeout_at(over, state.admissions.drain()).await;
        handle.graceful_shutdown(None);
        tokio::time::sleep_until(over).await;
    };
    let ended = tokio::select! {
        result = serving => result.map_err(Error::Socket),
        () = drain => {
            let seconds = options.grace.grace;
            tracing::warn!(seconds, "the grace period is over; unfinished requests are aborted");
            Ok(())
        }
    };
    state.close().await;
    ended
}

/// Every route, for a program with a server of its own. Nothing is drained or requeued at the end.
pub fn routes<'a>(
    options: &'a GatewayOptions,
    security: &'a Security,
) -> BoxFuture<'a, Result<Router, Error>> {
    Box::pin(async move { open(options, security).await.map(|(_, app)| app) })
}

async fn open(
    options: &GatewayOptions,
    security: &Security,
) -> Result<(Arc<AppState>, Router), Error> {
    let guard = Guard::new(security, &options.access);
    let state = AppState::open(options, Arc::new(guard)).await?;
    let app = app(Arc::clone(&state), &options.access.cors_origins);
    Ok((state, app))
}

async fn serve<A>(
    mut server: Server<SocketAddr, A>,
    first_request: Duration,
    app: Router,
) -> io::Result<()>
where
    A: Accept<TcpStream, Router> + Clone + Send + Sync + 'static,
    A::Stream: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send,
    A::Service: axum_server::service::SendService<http::Request<hyper::body::Incoming>> + Send,
    A::Future: Send,
{
    server.http_builder().http1().header_read_timeout(HEAD_TIMEOUT);
    server
        .http_builder()
        .http2()
        .keep_alive_interval(http2::KEEPALIVE_INTERVAL)
        .keep_alive_timeout(http2::KEEPALIVE_TIMEOUT)
        .max_concurrent_streams(http2::MAX_STREAMS)
        .max_header_list_size(http2::MAX_HEADER_BYTES)
        .max_pending_accept_reset_streams(http2::MAX_PENDING_RESETS)
        .max_local_error_reset_streams(http2::MAX_ERROR_RESETS);
    let errors = Mutex::new(AcceptErrors::default());
    let server = server.accept_error_handler(move |peer, error| {
        // With a peer, it is that connection's error. The server pauses by itself.
        if peer.is_none() {
            errors.lock().add(error);
        }
    });
    server.first_request_timeout(first_request).serve(app.into_make_service()).await
}

/// Takes connections as long as there is room.
#[derive(Clone, Debug)]
struct Counting(Connections);

impl<S: Send + 'static> Accept<TcpStream, S> for Counting {
    type Stream = Counted<TcpStream>;
    type Service = S;
    type Future = BoxFuture<'static, io::Result<(Counted<TcpStream>, S)>>;

    fn accept(&self, stream: TcpStream, service: S) -> Self::Future {
        let connections = self.0.clone();
        Box::pin(async move {
            let (stream, service) = NoDelayAcceptor::new().accept(stream, service).await?;
            let full = || io::Error::other("the limit on open connections is reached");
            connections.count(stream).map(|stream| (stream, service)).ok_or_else(full)
        })
    }
}
