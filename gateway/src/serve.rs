//! Serving the routes: encryption, bounds on connections, and an orderly end.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use axum::{Router, extract::ConnectInfo, middleware::AddExtension};
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

use crate::{
    app::app,
    error::Error,
    guard::Guard,
    history::EmbeddedHistory,
    options::{GatewayOptions, History, KeepOptions, ModelAlias},
    state::{AppState, data_folder},
};

/// The routes, for one connection whose peer is known.
type Service = AddExtension<Router, ConnectInfo<SocketAddr>>;

/// For the head of a request, and between two requests of a connection.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);

/// What a gateway keeps on disk, opened.
#[derive(Debug)]
pub struct Storage(Option<Arc<EmbeddedHistory>>);

/// A gateway that lacks nothing: its port is bound, its storage open, its services are known.
#[derive(Debug)]
pub struct Gateway {
    bound: BoundListener,
    options: GatewayOptions,
    state: Arc<AppState>,
    app: Router,
}

impl Storage {
    /// Opens the history. Quick, so a program does it before it loads a model.
    ///
    /// # Errors
    ///
    /// [`Error`] if the folder cannot be used, or another gateway uses it.
    pub fn open(keep: &KeepOptions) -> Result<Self, Error> {
        if keep.queue.is_some() && keep.history != History::Off {
            return Err(Error::Queue(
                "--queue keeps the history on the queue's server; remove --history".to_owned(),
            ));
        }
        Ok(Self(EmbeddedHistory::open(keep, data_folder().as_deref())?.map(Arc::new)))
    }
}

impl Gateway {
    /// Everything that can fail before the first request. Jobs that an earlier gateway left go on, so
    /// services of this process must run already. Must be called inside a tokio runtime.
    ///
    /// # Errors
    ///
    /// [`Error`] if the storage, the templates, a service's URL or an alias cannot be used.
    pub async fn open(
        bound: impl Into<BoundListener>,
        options: GatewayOptions,
        storage: Storage,
    ) -> Result<Self, Error> {
        let bound = bound.into();
        let (state, app) = Box::pin(open(&options, storage, &bound.security)).await?;
        Ok(Self { bound, options, state, app })
    }

    /// Serves until `shutdown` fires and the running requests and jobs are done, or the grace period is
    /// over. Until then it answers that it is not ready, and what becomes of the jobs.
    ///
    /// Boxed here, so that who awaits it does not have to compile the whole gateway.
    pub fn run(self, shutdown: CancellationToken) -> BoxFuture<'static, Result<(), Error>> {
        Box::pin(self.answer(shutdown))
    }

    async fn answer(self, shutdown: CancellationToken) -> Result<(), Error> {
        let Self { bound, options, state, app } = self;
        let (address, scheme) = (bound.address().map_err(Error::Socket)?, bound.scheme());
        let listener = bound.listener.into_std().map_err(Error::Socket)?;
        let handle = Handle::new();
        let server = axum_server::from_tcp(listener).map_err(Error::Socket)?.handle(handle.clone());
        tracing::info!(%address, scheme, diffusion = ?options.diffusion, "serving HTTP");
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
}

/// [`Gateway::open`] and [`Gateway::run`].
pub fn run(
    bound: impl Into<BoundListener>,
    options: GatewayOptions,
    shutdown: CancellationToken,
) -> BoxFuture<'static, Result<(), Error>> {
    let bound = bound.into();
    Box::pin(async move {
        let storage = Storage::open(&options.keep)?;
        Gateway::open(bound, options, storage).await?.run(shutdown).await
    })
}

/// Every route, for a program with a server of its own. Nothing is drained or requeued at the end.
pub fn routes<'a>(
    options: &'a GatewayOptions,
    security: &'a Security,
) -> BoxFuture<'a, Result<Router, Error>> {
    Box::pin(async move {
        let storage = Storage::open(&options.keep)?;
        open(options, storage, security).await.map(|(_, app)| app)
    })
}

async fn open(
    options: &GatewayOptions,
    storage: Storage,
    security: &Security,
) -> Result<(Arc<AppState>, Router), Error> {
    ModelAlias::check_names(&options.model_aliases).map_err(Error::Alias)?;
    let guard = Guard::new(security, &options.access);
    let state = AppState::open(options, storage.0, Arc::new(guard)).await?;
    let app = app(Arc::clone(&state), &options.access.cors_origins);
    Ok((state, app))
}

async fn serve<A>(
    mut server: Server<SocketAddr, A>,
    first_request: Duration,
    app: Router,
) -> io::Result<()>
where
    A: Accept<TcpStream, Service> + Clone + Send + Sync + 'static,
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
    let service = app.into_make_service_with_connect_info::<SocketAddr>();
    server.first_request_timeout(first_request).serve(service).await
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
