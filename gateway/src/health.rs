//! `GET /health`: whether a picture could be made now.

use std::time::Duration;

use axum::{Json, extract::State, http::StatusCode};
use llm_dit_proto::v1::{diffusion_server, encoder_server};
use llm_dit_serving::Remote;
use serde::Serialize;
use tokio::time;
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};

use crate::backends::Backends;

/// A service that takes longer to say that it is well is not.
const PATIENCE: Duration = Duration::from_secs(2);

#[derive(Debug, Serialize)]
pub(crate) struct Health {
    status: &'static str,
    version: &'static str,
    backends: Services,
}

#[derive(Debug, Serialize)]
struct Services {
    encoder: Service,
    diffusion: Service,
}

#[derive(Debug, Serialize)]
struct Service {
    /// `None` for an encoder that only the diffusion service knows.
    url: Option<String>,
    status: Condition,
    #[serde(skip_serializing_if = "Option::is_none")]
    detail: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Condition {
    Serving,
    /// It answers, but takes no requests: starting, or shutting down.
    NotServing,
    Unreachable,
}

pub(crate) async fn health(State(backends): State<Backends>) -> (StatusCode, Json<Health>) {
    // With an encoder of its own the diffusion service takes bare prompts.
    let encoder = async {
        let described = time::timeout(PATIENCE, backends.describe()).await;
        let has_encoder = matches!(described, Ok(Ok(model)) if model.has_encoder);
        match backends.encoder_for(has_encoder) {
            Some(encoder) => check(encoder, encoder_server::SERVICE_NAME).await,
            None => Service {
                url: None,
                status: Condition::Serving,
                detail: Some("the diffusion service has its own encoder".to_owned()),
            },
        }
    };
    let diffusion = check(&backends.diffusion, diffusion_server::SERVICE_NAME);
    let (encoder, diffusion) = tokio::join!(encoder, diffusion);
    let well = [&encoder, &diffusion].iter().all(|service| service.status == Condition::Serving);
    let (code, status) = if well {
        (StatusCode::OK, "ok")
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "unavailable")
    };
    let backends = Services { encoder, diffusion };
    (code, Json(Health { status, version: env!("CARGO_PKG_VERSION"), backends }))
}

async fn check(remote: &Remote, name: &str) -> Service {
    let mut client = HealthClient::new(remote.channel());
    let request = HealthCheckRequest { service: name.to_owned() };
    let (status, detail) = match time::timeout(PATIENCE, client.check(request)).await {
        Ok(Ok(answer)) if answer.get_ref().status() == ServingStatus::Serving => {
            (Condition::Serving, None)
        }
        Ok(Ok(_)) => (Condition::NotServing, None),
        Ok(Err(status)) if status.code() == tonic::Code::NotFound => {
            (Condition::NotServing, Some(format!("there is no {name} at this address")))
        }
        Ok(Err(status)) => (Condition::Unreachable, Some(remote.fault(status).to_string())),
        Err(_) => {
            (Condition::Unreachable, Some(format!("no answer within {} s", PATIENCE.as_secs())))
        }
    };
    Service { url: Some(remote.url().to_owned()), status, detail }
}
