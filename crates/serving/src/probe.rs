//! `PROGRAM health`: whether a server is healthy, as an exit status. For container images without a
//! shell, and for probes that need a client certificate.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    process::ExitCode,
    time::Duration,
};

use clap::{Args, Subcommand};
use tokio::time;
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};

use crate::{
    Credentials, Remote,
    args::{CredentialsArgs, ListenArgs},
    client::{http, root_cause, service_url},
    security::{ClientTls, Key},
};

/// In every certificate of `llm-dit certificates`.
const LOCAL: &str = "localhost";

/// What a service does beside serving.
#[derive(Clone, Debug, Subcommand)]
pub enum ServiceCommand<const PORT: u16> {
    /// Check the health of the server on this machine: exit status 0 or 1
    Health(HealthArgs<PORT>),
}

/// Which server, and what is asked. `PORT` is the program's default.
#[derive(Clone, Debug, Args)]
pub struct HealthArgs<const PORT: u16> {
    /// Server to check [default: the one on this machine, with the address, the certificate and the
    /// keys that its flags give it]
    #[arg(long, value_name = "URL", value_parser = service_url)]
    url: Option<String>,
    /// Check only that the process answers; to decide about a restart
    #[arg(long, conflicts_with = "ready")]
    live: bool,
    /// Check only that it accepts requests, even if it cannot compute them now
    #[arg(long)]
    ready: bool,
    /// Seconds after which a server without an answer is unhealthy
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..=300))]
    timeout: u64,
    #[command(flatten, next_help_heading = "The server's flags")]
    listen: ListenArgs<PORT>,
    #[command(flatten, next_help_heading = "The server's flags")]
    credentials: CredentialsArgs,
}

/// What a server speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// `GET /health`, `/readyz` and `/livez`.
    Http,
    /// `grpc.health.v1.Health`, which knows no difference between ready and healthy.
    Grpc,
}

/// How much a server must be able to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Level {
    Live,
    Ready,
    Healthy,
}

impl<const PORT: u16> HealthArgs<PORT> {
    /// Asks the server, prints what it says, and returns the exit status.
    pub async fn run(&self, protocol: Protocol) -> ExitCode {
        match self.ask(protocol).await {
            Ok(said) => {
                println!("{said}");
                ExitCode::SUCCESS
            }
            Err(why) => {
                eprintln!("error: {why}");
                ExitCode::FAILURE
            }
        }
    }

    async fn ask(&self, protocol: Protocol) -> Result<String, String> {
        let url = self.url();
        let credentials = self.credentials().map_err(|error| error.to_string())?;
        let answer = async {
            match protocol {
                Protocol::Http => ask_http(&url, self.level(), &credentials).await,
                Protocol::Grpc => ask_grpc(&url, self.level(), &credentials).await,
            }
        };
        let answer = time::timeout(Duration::from_secs(self.timeout), answer).await;
        answer.unwrap_or_else(|_| Err(format!("{url} did not answer within {} s", self.timeout)))
    }

    fn level(&self) -> Level {
        match (self.live, self.ready) {
            (true, _) => Level::Live,
            (_, true) => Level::Ready,
            _ => Level::Healthy,
        }
    }

    fn url(&self) -> String {
        if let Some(url) = &self.url {
            return url.clone();
        }
        let ListenArgs { host, port, identity, .. } = &self.listen;
        let host = match *host {
            IpAddr::V4(Ipv4Addr::UNSPECIFIED) => Ipv4Addr::LOCALHOST.into(),
            IpAddr::V6(Ipv6Addr::UNSPECIFIED) => Ipv6Addr::LOCALHOST.into(),
            host => host,
        };
        match (&identity.tls_cert, host) {
            (Some(_), host) if host.is_loopback() => format!("https://{LOCAL}:{port}"),
            (Some(_), IpAddr::V6(host)) => format!("https://[{host}]:{port}"),
            (Some(_), host) => format!("https://{host}:{port}"),
            (None, IpAddr::V6(host)) => format!("http://[{host}]:{port}"),
            (None, host) => format!("http://{host}:{port}"),
        }
    }

    /// The server's own certificate is what we show if it asks for one: the same authority signs
    /// those of its clients.
    fn credentials(&self) -> Result<Credentials, crate::security::SecurityError> {
        let ListenArgs { identity, tls_client_ca, .. } = &self.listen;
        let ca = self.credentials.tls_ca.as_deref().or(tls_client_ca.as_deref());
        let key = self.credentials.service_key.as_deref().map(Key::from_file).transpose()?;
        Ok(Credentials { tls: ClientTls::new(ca, identity.read()?)?, key })
    }
}

async fn ask_http(url: &str, level: Level, credentials: &Credentials) -> Result<String, String> {
    let path = match level {
        Level::Live => "livez",
        Level::Ready => "readyz",
        Level::Healthy => "health",
    };
    let failed = |error: reqwest::Error| format!("{url} cannot be reached: {}", root_cause(&error));
    let client = http(url, &credentials.tls).and_then(|builder| builder.no_proxy().build());
    let url = url.trim_end_matches('/');
    let request = client.map_err(failed)?.get(format!("{url}/{path}"));
    let answer = request.send().await.map_err(failed)?;
    let status = answer.status();
    if status.is_success() {
        Ok(status.to_string())
    } else {
        Err(format!("{url}/{path} says {status}"))
    }
}

async fn ask_grpc(url: &str, level: Level, credentials: &Credentials) -> Result<String, String> {
    let remote = Remote::new("server", url, credentials).map_err(|error| error.to_string())?;
    // The whole server, not one of its services.
    let request = HealthCheckRequest { service: String::new() };
    let answer = HealthClient::new(remote.channel()).check(request).await;
    let status = answer.map_err(|status| remote.fault(status).to_string())?.into_inner().status();
    let said = status.as_str_name().to_lowercase();
    if level == Level::Live || status == ServingStatus::Serving {
        Ok(said)
    } else {
        Err(format!("{url} says {said}"))
    }
}
