//! The routes, what surrounds them, and serving them.

use std::{any::Any, io, sync::Arc};

use axum::{
    Router,
    extract::{FromRef, Request},
    response::{Html, IntoResponse as _, Response},
    routing::{get, post},
    serve::ListenerExt as _,
};
use llm_dit_proto::Fault;
use llm_dit_serving::grpc::DEFAULT_GRACE;
use llm_dit_templates::Library;
use tokio::{net::TcpListener, time};
use tokio_util::sync::CancellationToken;
use tower_http::{
    catch_panic::CatchPanicLayer,
    request_id::{MakeRequestUuid, PropagateRequestIdLayer, RequestId, SetRequestIdLayer},
    trace::{DefaultOnFailure, DefaultOnResponse, TraceLayer},
};
use tracing::{Level, Span};

use crate::{
    backends::{Backends, GatewayOptions},
    body::MAX_BODY_BYTES,
    error::Error,
    generate, health,
    problem::Problem,
};

const INDEX: &str = include_str!("index.html");

/// What requests share.
#[derive(Clone, Debug)]
struct Shared {
    backends: Backends,
    templates: Arc<Library>,
}

impl FromRef<Shared> for Backends {
    fn from_ref(shared: &Shared) -> Self {
        shared.backends.clone()
    }
}

impl FromRef<Shared> for Arc<Library> {
    fn from_ref(shared: &Shared) -> Self {
        Arc::clone(&shared.templates)
    }
}

/// Every route of the gateway. Must be called inside a tokio runtime.
pub fn app(options: &GatewayOptions) -> Result<Router, Error> {
    let backends = Backends::new(options)?;
    let templates = Arc::new(Library::load(options.templates_dir.as_deref())?);
    let around = tower::ServiceBuilder::new()
        .layer(SetRequestIdLayer::x_request_id(MakeRequestUuid))
        .layer(
            TraceLayer::new_for_http()
                .make_span_with(span)
                .on_response(DefaultOnResponse::new().level(Level::INFO))
                // The problem itself was logged with its cause.
                .on_failure(DefaultOnFailure::new().level(Level::DEBUG)),
        )
        .layer(PropagateRequestIdLayer::x_request_id())
        .layer(CatchPanicLayer::custom(panicked));
    Ok(Router::new()
        .route("/", get(async || Html(INDEX)))
        .route("/health", get(health::health))
        .route("/api/generate", post(generate::generate))
        .fallback(not_found)
        .method_not_allowed_fallback(method_not_allowed)
        .layer(around)
        .with_state(Shared { backends, templates }))
}

/// Serves until `shutdown` fires and the running requests are done, or the grace period is over.
pub async fn run(
    listener: TcpListener,
    options: GatewayOptions,
    shutdown: CancellationToken,
) -> Result<(), Error> {
    let app = app(&options)?;
    let address = listener.local_addr().map_err(Error::Socket)?;
    let listener = listener.tap_io(|stream| {
        // Costs only latency when it fails.
        let _ = stream.set_nodelay(true);
    });
    tracing::info!(%address, diffusion = options.diffusion, "serving HTTP");
    let drained = axum::serve(listener, app)
        .with_graceful_shutdown(shutdown.clone().cancelled_owned())
        .into_future();
    let overtime = async {
        shutdown.cancelled().await;
        time::sleep(DEFAULT_GRACE).await;
    };
    tokio::select! {
        result = drained => result.map_err(|cause: io::Error| Error::Socket(cause)),
        () = overtime => {
            let seconds = DEFAULT_GRACE.as_secs();
            tracing::warn!(seconds, "the grace period is over; unfinished requests are cut off");
            Ok(())
        }
    }
}

fn span<B>(request: &axum::http::Request<B>) -> Span {
    let id = request.extensions().get::<RequestId>().and_then(|id| id.header_value().to_str().ok());
    tracing::info_span!("http", method = %request.method(), path = request.uri().path(), id)
}

async fn not_found(request: Request) -> Problem {
    Fault::NotFound(format!(
        "there is nothing at {}; POST /api/generate makes a picture, GET /health tells how the services are",
        request.uri().path()
    ))
    .into()
}

async fn method_not_allowed(request: Request) -> Problem {
    Problem::method_not_allowed(format!(
        "{} does not take {}",
        request.uri().path(),
        request.method()
    ))
}

fn panicked(panic: Box<dyn Any + Send>) -> Response {
    let message = panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no message");
    Problem::from(Fault::Internal(format!("a request handler panicked: {message}"))).into_response()
}

const _: () = assert!(MAX_BODY_BYTES > llm_dit_params::MAX_PROMPT_BYTES * 8);
