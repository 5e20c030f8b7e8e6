//! One service on one machine: its health and its load.

use std::{
    sync::{
        Arc, Weak,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use llm_dit_fault::Fault;
use llm_dit_proto::v1::{
    DescribeDiffusionRequest, diffusion_client::DiffusionClient, encoder_client::EncoderClient,
    encoder_server,
};
use llm_dit_serving::{Credentials, Remote, client::Link};
use llm_dit_telemetry::metrics::BACKEND_FAILURES;
use serde::Serialize;
use tokio::{
    sync::{Notify, watch},
    time,
};
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};

use super::names::Address;
use crate::{error::Error, records::model::Model};

/// A service that takes longer to say that it is well is not.
pub(crate) const PATIENCE: Duration = Duration::from_secs(2);
/// What `GET /health` waits for services. One that takes longer is as the last check found it.
pub(crate) const AT_ONCE: Duration = Duration::from_millis(200);
/// Between two questions how a service is.
const INTERVAL: Duration = Duration::from_secs(2);

#[derive(Debug)]
pub(crate) struct Backend {
    pub remote: Remote,
    /// The gRPC service that it should be.
    service: &'static str,
    state: watch::Sender<State>,
    /// Wakes the task that asks for its health.
    failed: Notify,
    /// Times that it failed, so that an answer from before does not count.
    failures: AtomicU64,
    /// Times that it came back, perhaps with another model.
    recoveries: AtomicU64,
    in_flight: AtomicUsize,
}

#[derive(Clone, Debug)]
pub(crate) struct State {
    pub condition: Condition,
    pub detail: Option<String>,
    /// The last health check got no answer: the service hangs, or its machine is gone. A request that
    /// fails does not say so.
    pub is_silent: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Condition {
    /// Not asked yet.
    Unknown,
    Serving,
    /// It answers, but takes no requests: starting, or shutting down.
    NotServing,
    Unreachable,
}

impl Condition {
    /// Whether requests are sent to it: it serves, or was not checked yet.
    pub fn is_usable(self) -> bool {
        matches!(self, Self::Unknown | Self::Serving)
    }
}

impl Backend {
    /// A service whose health is checked from now on; `is_inner`: it runs in this process. Must be
    /// called inside a tokio runtime.
    ///
    /// # Errors
    ///
    /// [`Error`] if the URL or the credentials cannot be used.
    pub fn new(
        what: &'static str,
        service: &'static str,
        address: &Address,
        credentials: &Credentials,
        is_inner: bool,
    ) -> Result<Arc<Self>, Error> {
        let remote = Remote::named(what, &address.url, &address.host, credentials)?;
        let backend = Arc::new(Self {
            remote: if is_inner { remote.inner() } else { remote },
            service,
            state: watch::Sender::new(State {
                condition: Condition::Unknown,
                detail: None,
                is_silent: false,
            }),
            failed: Notify::new(),
            failures: AtomicU64::new(0),
            recoveries: AtomicU64::new(0),
            in_flight: AtomicUsize::new(0),
        });
        tokio::spawn(health(Arc::downgrade(&backend)));
        Ok(backend)
    }

    /// The service's URL.
    pub fn url(&self) -> &str {
        self.remote.url()
    }

    /// `encoder` or `diffusion`, as a metric's label.
    pub fn kind(&self) -> &'static str {
        if self.service == encoder_server::SERVICE_NAME { "encoder" } else { "diffusion" }
    }

    /// What the last health check or request found.
    pub fn state(&self) -> State {
        self.state.borrow().clone()
    }

    /// A receiver of every health check and every failure.
    pub(super) fn watch(&self) -> watch::Receiver<State> {
        self.state.subscribe()
    }

    /// What is known now: asks again, but does not wait for a service that hangs.
    pub async fn state_now(&self) -> State {
        if !self.state().is_silent {
            let _ = time::timeout(AT_ONCE, self.check()).await;
        }
        self.state()
    }

    /// Requests that the service is working at for this gateway.
    pub fn in_flight(&self) -> usize {
        self.in_flight.load(Ordering::Relaxed)
    }

    pub(super) fn begin(&self) {
        self.in_flight.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn end(&self) {
        self.in_flight.fetch_sub(1, Ordering::Relaxed);
    }

    /// How often the service became healthy again.
    pub fn recoveries(&self) -> u64 {
        self.recoveries.load(Ordering::Relaxed)
    }

    /// Leaves it alone until its health answers again.
    pub fn fail(&self, fault: &Fault) {
        self.failures.fetch_add(1, Ordering::Relaxed);
        metrics::counter!(BACKEND_FAILURES.name, "kind" => self.kind()).increment(1);
        // What the health checks found stays true: others still wait for a silent one.
        let is_silent = self.state.borrow().is_silent;
        self.enter(Condition::Unreachable, Some(fault.to_string()), is_silent);
        self.failed.notify_one();
    }

    /// A client of the encoder behind this URL.
    pub fn encoder(&self) -> EncoderClient<Link> {
        EncoderClient::new(self.remote.link())
    }

    /// A client of the diffusion service behind this URL.
    pub fn diffusion(&self) -> DiffusionClient<Link> {
        DiffusionClient::new(self.remote.link())
    }

    /// The model that the service has loaded. It is asked for every request, which costs a fraction
    /// of a millisecond: a restart may have changed the model, and an unreachable service should be
    /// noticed before a prompt is encoded for it.
    ///
    /// # Errors
    ///
    /// [`Fault`] if the service does not answer, or answers nothing that can be used.
    pub async fn model(&self) -> Result<Model, Fault> {
        let answer = self.diffusion().describe(DescribeDiffusionRequest {}).await;
        Model::try_from(answer.map_err(|status| self.remote.fault(status))?.into_inner())
    }

    /// Asks how it is, and remembers.
    pub async fn check(&self) -> Condition {
        let before = self.failures.load(Ordering::Relaxed);
        let mut client = HealthClient::new(self.remote.channel());
        let request = HealthCheckRequest { service: self.service.to_owned() };
        let answer = time::timeout(PATIENCE, client.check(request)).await;
        // A connection that is refused ends all calls by itself.
        let is_silent = answer.is_err();
        let (condition, detail) = match answer {
            Ok(Ok(answer)) if answer.get_ref().status() == ServingStatus::Serving => {
                (Condition::Serving, None)
            }
            Ok(Ok(_)) => (Condition::NotServing, None),
            // A program that knows no health, but answers.
            Ok(Err(status)) if status.code() == tonic::Code::Unimplemented => {
                (Condition::Serving, None)
            }
            Ok(Err(status)) if status.code() == tonic::Code::NotFound => {
                let detail = format!("{} is no {}", self.remote.place(), self.service);
                (Condition::NotServing, Some(detail))
            }
            Ok(Err(status)) => {
                (Condition::Unreachable, Some(self.remote.fault(status).to_string()))
            }
            Err(_) => {
                let (place, seconds) = (self.remote.place(), PATIENCE.as_secs());
                let detail = format!("{place} did not answer within {seconds} s");
                (Condition::Unreachable, Some(detail))
            }
        };
        // A request that failed while we asked knows better.
        if self.failures.load(Ordering::Relaxed) == before {
            self.enter(condition, detail, is_silent);
        }
        condition
    }

    #[cfg(test)]
    pub(super) fn set(&self, state: State) {
        self.failures.fetch_add(1, Ordering::Relaxed);
        self.state.send_replace(state);
    }

    fn enter(&self, condition: Condition, detail: Option<String>, is_silent: bool) {
        let state = State { condition, detail, is_silent };
        let before = self.state.send_replace(state).condition;
        if before == condition {
            return;
        }
        let url = self.url();
        match (before.is_usable(), condition.is_usable()) {
            (false, true) => {
                self.recoveries.fetch_add(1, Ordering::Relaxed);
                tracing::info!(url, "a service is healthy again");
            }
            (true, false) => tracing::warn!(url, ?condition, "a service is left alone"),
            _ => tracing::debug!(url, ?condition, "a service has changed"),
        }
    }
}

/// Checks a service's health again and again, as long as its [`Backend`] exists.
async fn health(backend: Weak<Backend>) {
    while let Some(backend) = backend.upgrade() {
        backend.check().await;
        tokio::select! {
            () = time::sleep(INTERVAL) => {}
            () = backend.failed.notified() => {}
        }
    }
}
