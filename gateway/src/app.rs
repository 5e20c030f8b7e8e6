//! The routes, and what surrounds them.

use std::{any::Any, sync::Arc, time::Duration};

use axum::{
    Json, Router,
    extract::Request,
    http::{HeaderName, HeaderValue, Method},
    middleware,
    response::{IntoResponse as _, Response},
    routing::get,
};
use llm_dit_fault::Fault;
use llm_dit_params::excerpt;
use llm_dit_serving::{instrument, pace};
use llm_dit_telemetry::metrics;
use tower_http::{catch_panic::CatchPanicLayer, cors::CorsLayer};
use utoipa::OpenApi;
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{
    api::{
        access,
        answer::PreviewBody,
        body::MAX_BODY_BYTES,
        encode, generate, health, history, jobs, lists, loras, metrics as gauges,
        openai::{self, OpenAiProblemBody},
        page, refusals, session,
    },
    records::{problem::Problem, progress::Progress},
    state::AppState,
};

/// Browsers may remember that long what other pages may do.
const CORS_AGE: Duration = Duration::from_secs(3600);

/// What the document says beside the endpoints.
#[derive(OpenApi)]
#[openapi(
    info(
        title = "llm-dit",
        description = "Text to image. docs/api/web_server_api.md documents the same endpoints."
    ),
    components(schemas(Problem, Progress, PreviewBody, OpenAiProblemBody))
)]
struct Document;

/// Every route that programs use. Each is in the document because it is a route.
fn api() -> OpenApiRouter<Arc<AppState>> {
    OpenApiRouter::with_openapi(Document::openapi())
        .routes(routes!(generate::generate))
        .routes(routes!(jobs::create, jobs::list))
        .routes(routes!(jobs::get, jobs::delete))
        .routes(routes!(jobs::events))
        .routes(routes!(jobs::image))
        .routes(routes!(encode::encode))
        .routes(routes!(encode::save))
        .routes(routes!(encode::format))
        .routes(routes!(lists::templates))
        .routes(routes!(lists::schedulers))
        .routes(routes!(lists::model))
        .routes(routes!(history::list, history::clear))
        .routes(routes!(history::get, history::delete))
        .routes(routes!(history::image))
        .routes(routes!(history::thumbnail))
        .routes(routes!(loras::list))
        .routes(routes!(loras::active))
        .routes(routes!(loras::apply))
        .routes(routes!(loras::clear))
        .routes(routes!(openai::generate))
        .routes(routes!(openai::edit))
        .routes(routes!(openai::list))
        .routes(routes!(openai::get))
        .routes(routes!(session::begin, session::end))
        .routes(routes!(health::health))
        .routes(routes!(health::livez))
        .routes(routes!(health::readyz))
}

/// Every route of the gateway.
pub(crate) fn app(state: Arc<AppState>, origins: &[HeaderValue]) -> Router {
    let guard = Arc::clone(&state.guard);
    let inner = tower::ServiceBuilder::new()
        .layer(middleware::from_fn(refusals::everywhere))
        .layer(CatchPanicLayer::custom(panicked))
        .option_layer(cors(origins))
        .layer(middleware::from_fn_with_state(guard, access::guard))
        .layer(middleware::map_request(pace::hold));
    let (mut router, document) = api().split_for_parts();
    let document = Arc::new(document);
    router = router.route(
        "/openapi.json",
        get(async move || Json(Arc::unwrap_or_clone(Arc::clone(&document)))),
    );
    router = router.route("/metrics", metrics::route(Some(gauges::of(&state))));
    for path in page::paths() {
        router = router.route(path, get(page::serve));
    }
    let router =
        router.fallback(not_found).method_not_allowed_fallback(method_not_allowed).layer(inner);
    instrument(router)
        // Bodies are bounded where they are read.
        .layer(axum::extract::DefaultBodyLimit::disable())
        .with_state(state)
}

/// Pages of these origins may read the answers. Without any, nothing is said to browsers, and they
/// let no other page.
fn cors(origins: &[HeaderValue]) -> Option<CorsLayer> {
    let exposed = [
        "x-seed",
        "x-generation-time",
        "x-history-id",
        "x-truncated-tokens",
        "x-truncated-negative-tokens",
        "x-parameters-omitted",
        "x-request-id",
        "location",
        "retry-after",
        "idempotent-replayed",
    ];
    let asked = ["authorization", "content-type", "accept", "idempotency-key", "last-event-id"];
    (!origins.is_empty()).then(|| {
        CorsLayer::new()
            .allow_origin(origins.to_vec())
            .allow_methods([Method::GET, Method::POST, Method::DELETE])
            .allow_headers(asked.map(HeaderName::from_static))
            .expose_headers(exposed.map(HeaderName::from_static))
            .max_age(CORS_AGE)
    })
}

async fn not_found(request: Request) -> Problem {
    Fault::NotFound(format!(
        "there is no endpoint {}; POST /api/generate generates an image, GET /health reports the health of the services, GET /openapi.json lists all endpoints",
        excerpt(request.uri().path())
    ))
    .into()
}

async fn method_not_allowed(request: Request) -> Problem {
    Problem::method_not_allowed(format!(
        "{} does not support {}",
        excerpt(request.uri().path()),
        excerpt(request.method().as_str())
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
