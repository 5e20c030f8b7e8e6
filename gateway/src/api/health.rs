//! `GET /health`: whether the gateway can generate a picture now.

use std::sync::Arc;

use axum::{Extension, Json, extract::State, http::StatusCode};
use futures::future::join_all;
use serde::Serialize;
use tokio::time;
use utoipa::ToSchema;

use super::Shared;
use crate::{
    backends::{AT_ONCE, Backend, BackendState, Choice, Condition, EncoderKind, NamedEncoder},
    encode::CacheStats,
    guard::Known,
    options::DIFFUSION,
    records::problem::Problem,
    state::AppState,
};

/// What `/health` answers.
#[derive(Debug, Serialize, ToSchema)]
#[serde(untagged)]
pub(crate) enum HealthAnswer {
    /// For clients that may know it: if the gateway has keys, those that send one.
    Whole(Box<Health>),
    /// For all others.
    Status(HealthStatus),
}

/// `/health` to clients without a key.
#[derive(Debug, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct HealthStatus {
    /// `ok`, `unavailable`, or `draining` during shutdown.
    status: &'static str,
}

#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Health {
    /// `ok`, `unavailable`, or `draining` during shutdown.
    status: &'static str,
    #[serde(flatten)]
    details: Details,
}

/// What probes read.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Probe {
    /// `ok`, `unavailable`, or `draining` during shutdown.
    status: &'static str,
}

#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Details {
    version: &'static str,
    /// The first one is the default.
    encoders: Vec<EncoderHealth>,
    diffusion: Vec<BackendHealth>,
    requests: Requests,
    embedding_cache: CacheStats,
    history: HistoryHealth,
}

/// Where pictures and jobs are kept. Pictures are made and answered whatever it says.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct HistoryHealth {
    status: HistoryStatus,
    /// What is wrong.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    detail: Option<String>,
}

#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum HistoryStatus {
    /// There is no history, and a restart forgets all jobs.
    Off,
    Ok,
    /// The last write failed.
    Failing,
}

impl HistoryHealth {
    fn of(state: &AppState) -> Self {
        match &state.history {
            None => Self { status: HistoryStatus::Off, detail: None },
            Some(history) => match history.trouble().or_else(|| unstored(state)) {
                None => Self { status: HistoryStatus::Ok, detail: None },
                detail => Self { status: HistoryStatus::Failing, detail },
            },
        }
    }
}

/// Another write may have succeeded where the end of a job does not fit.
fn unstored(state: &AppState) -> Option<String> {
    let (jobs, fault) = state.jobs.unstored()?;
    Some(format!("{jobs} finished jobs are not stored yet: {fault}"))
}

#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct EncoderHealth {
    /// Value for `encoder` in requests.
    name: String,
    kind: EncoderKindName,
    backends: Vec<BackendHealth>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum EncoderKindName {
    Grpc,
    Heylookitsanllm,
    /// The diffusion services' own.
    Diffusion,
}

#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct BackendHealth {
    url: String,
    status: Condition,
    /// What is wrong.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    detail: Option<String>,
    /// Requests of this gateway.
    in_flight: usize,
}

#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Requests {
    running: usize,
    limit: usize,
}

/// Whether the server can generate an image now, as far as is known at once: a service that hangs is
/// not waited for.
#[utoipa::path(
    get, path = "/health", tag = "health",
    responses(
        (status = 200, description = "The server can generate an image now", body = HealthAnswer),
        (status = 503, description = "The server cannot generate an image now, or it is shutting down", body = HealthAnswer),
    )
)]
pub(crate) async fn health(
    State(state): Shared,
    Extension(Known(known)): Extension<Known>,
) -> (StatusCode, Json<HealthAnswer>) {
    let (code, health) = look(&state).await;
    let answer = if known {
        HealthAnswer::Whole(Box::new(health))
    } else {
        HealthAnswer::Status(HealthStatus { status: health.status })
    };
    (code, Json(answer))
}

/// Whether the process answers. Use it to decide about a restart: it does not depend on services.
#[utoipa::path(
    get, path = "/livez", tag = "health",
    responses(
        (status = 200, description = "The process answers", body = Probe),
        (status = 403, description = "The `Host` is none of this server's", body = Problem),
    )
)]
pub(crate) async fn livez() -> Json<Probe> {
    Json(Probe { status: "ok" })
}

/// Whether the server accepts requests. While services are away, it accepts jobs and serves the
/// page and the history, so it stays ready. It is not ready while it cannot reach the server of a shared
/// queue.
#[utoipa::path(
    get, path = "/readyz", tag = "health",
    responses(
        (status = 200, description = "The server accepts requests", body = Probe),
        (status = 503, description = "The server is shutting down, or cannot reach the shared queue", body = Probe),
    )
)]
pub(crate) async fn readyz(State(state): Shared) -> (StatusCode, Json<Probe>) {
    let (code, status) = if state.admissions.is_draining() {
        (StatusCode::SERVICE_UNAVAILABLE, "draining")
    } else if state.queue.as_ref().is_some_and(|queue| !queue.is_connected()) {
        (StatusCode::SERVICE_UNAVAILABLE, "unavailable")
    } else {
        (StatusCode::OK, "ok")
    };
    (code, Json(Probe { status }))
}

async fn look(state: &AppState) -> (StatusCode, Health) {
    let backends = &state.backends;
    let all = backends.diffusion.all();
    let diffusion = join_all(all.iter().map(check));
    let encoders = join_all(backends.encoders.iter().map(encoder));
    let (diffusion, mut encoders, has_encoder) =
        tokio::join!(diffusion, encoders, backends.has_encoder());
    let theirs_first = matches!(backends.encoder(None, has_encoder), Ok(Choice::Theirs));
    if has_encoder {
        let name = DIFFUSION.to_owned();
        let theirs = EncoderHealth { name, kind: EncoderKindName::Diffusion, backends: Vec::new() };
        let place = if theirs_first { 0 } else { encoders.len() };
        encoders.insert(place, theirs);
    }
    let serves = |list: &[BackendHealth]| list.iter().any(|backend| backend.status.is_usable());
    let reachable = state.queue.as_ref().is_none_or(|queue| queue.is_connected());
    let well = reachable
        && serves(&diffusion)
        && encoders.first().is_some_and(|encoder| {
            encoder.kind == EncoderKindName::Diffusion || serves(&encoder.backends)
        });
    let (code, status) = if state.admissions.is_draining() {
        (StatusCode::SERVICE_UNAVAILABLE, "draining")
    } else if well {
        (StatusCode::OK, "ok")
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "unavailable")
    };
    let details = Details {
        version: env!("CARGO_PKG_VERSION"),
        encoders,
        diffusion,
        requests: Requests { running: state.admissions.running(), limit: state.admissions.limit() },
        embedding_cache: state.cache.stats(),
        history: HistoryHealth::of(state),
    };
    (code, Health { status, details })
}

async fn encoder(encoder: &NamedEncoder) -> EncoderHealth {
    let name = encoder.name.clone();
    match &encoder.kind {
        EncoderKind::Grpc(pool) => {
            let backends = join_all(pool.all().iter().map(check)).await;
            EncoderHealth { name, kind: EncoderKindName::Grpc, backends }
        }
        EncoderKind::Heylook(server) => {
            let (status, detail) = match time::timeout(AT_ONCE, server.about()).await {
                Ok(Ok(about)) => match about.objection(server.model()) {
                    None => (Condition::Serving, None),
                    // It answers, but not with embeddings.
                    objection => (Condition::NotServing, objection),
                },
                Ok(Err(error)) => (Condition::Unreachable, Some(error.to_string())),
                // It answers nothing while it computes.
                Err(_) => (Condition::Unknown, Some("it is busy, or does not answer".to_owned())),
            };
            let url = server.url().to_owned();
            let backends = vec![BackendHealth { url, status, detail, in_flight: 0 }];
            EncoderHealth { name, kind: EncoderKindName::Heylookitsanllm, backends }
        }
    }
}

async fn check(backend: &Arc<Backend>) -> BackendHealth {
    let BackendState { condition: status, detail, .. } = backend.state_now().await;
    BackendHealth { url: backend.url().to_owned(), status, detail, in_flight: backend.in_flight() }
}
