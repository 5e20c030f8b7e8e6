//! Metrics that are measured when `/metrics` is requested.

use std::sync::{Arc, Weak};

use llm_dit_telemetry::metrics::{
    BACKEND_REQUESTS, BACKEND_UP, CACHE_BYTES, CACHE_ENTRIES, CACHE_LIMIT, GATEWAY_LIMIT,
    GATEWAY_RUNNING, JOBS_KNOWN, JOBS_OLDEST, Observer, QUEUE_CONNECTED, QUEUE_LATE_RESULTS,
    QUEUE_REDELIVERIES, build_info, observe,
};
use metrics::{counter, gauge};

use crate::{
    backends::{Backend, EncoderKind},
    state::AppState,
};

/// Tells of a gateway for as long as there is one.
pub(crate) fn of(state: &Arc<AppState>) -> Observer {
    let state: Weak<AppState> = Arc::downgrade(state);
    observe(move || {
        if let Some(state) = state.upgrade() {
            tell(&state);
        }
    })
}

fn tell(state: &AppState) {
    build_info("gateway");
    gauge!(GATEWAY_RUNNING.name).set(state.admissions.running() as f64);
    gauge!(GATEWAY_LIMIT.name).set(state.admissions.limit() as f64);
    let cache = state.cache.stats();
    gauge!(CACHE_ENTRIES.name).set(cache.entries as f64);
    gauge!(CACHE_BYTES.name).set(cache.bytes as f64);
    gauge!(CACHE_LIMIT.name).set(cache.limit as f64);
    let encoders = state.backends.encoders.iter().filter_map(|encoder| match &encoder.kind {
        EncoderKind::Grpc(pool) => Some(pool),
        // Its state is queried only when a client asks for it.
        EncoderKind::Heylook(_) => None,
    });
    for pool in encoders.chain([&state.backends.diffusion]) {
        pool.all().iter().for_each(|backend| tell_of(backend));
    }
    for (state, jobs) in state.jobs.count() {
        gauge!(JOBS_KNOWN.name, "state" => state).set(jobs as f64);
    }
    gauge!(JOBS_OLDEST.name).set(state.jobs.oldest_waiting().as_secs_f64());
    let is_away = state.queue.as_ref().is_some_and(|queue| !queue.is_connected());
    gauge!(QUEUE_CONNECTED.name).set(if is_away { 0.0 } else { 1.0 });
    // A rate can be told from the first one on.
    for counted in [&QUEUE_REDELIVERIES, &QUEUE_LATE_RESULTS] {
        counter!(counted.name).increment(0);
    }
}

fn tell_of(backend: &Backend) {
    let labels = [("kind", backend.kind().to_owned()), ("backend", backend.url().to_owned())];
    let up = if backend.state().condition.is_usable() { 1.0 } else { 0.0 };
    gauge!(BACKEND_UP.name, &labels).set(up);
    gauge!(BACKEND_REQUESTS.name, &labels).set(backend.in_flight() as f64);
}
