//! The options of a queue that gateways share.

use std::{num::NonZeroUsize, path::PathBuf, time::Duration};

use clap::{Args, ValueEnum};

use super::seconds;

/// What a gateway does for the shared queue.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum QueueRole {
    /// Accepts jobs and answers for all of them; runs none
    Front,
    /// Runs jobs; accepts none
    Worker,
    /// Accepts and runs jobs
    #[default]
    Both,
}

/// A queue that gateways share, and this one's part in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueueOptions {
    /// Of the servers of one cluster.
    pub urls: Vec<String>,
    pub role: QueueRole,
    /// File with the seed of this gateway's nkey.
    pub nkey: Option<PathBuf>,
    /// File with authorities of the servers' certificates.
    pub ca: Option<PathBuf>,
    /// A job goes to another worker when this one was silent for so long.
    pub lease: Duration,
    /// Jobs that this gateway runs at a time.
    pub claims: NonZeroUsize,
    /// Jobs that wait or run, at most; fixed when the queue is created.
    pub max_jobs: u32,
    /// Copies in a cluster; fixed when the queue is created.
    pub replicas: usize,
}

/// The flags of [`QueueOptions`].
#[derive(Clone, Debug, Args)]
pub struct QueueArgs {
    /// NATS server with JetStream on which gateways share jobs and history, such as
    /// nats://queue:4222 or tls://queue:4222. Repeatable or comma-separated for the servers of one
    /// cluster [default: this gateway has its own jobs and history]
    #[arg(long, value_name = "URL", value_delimiter = ',', value_parser = queue_url,
        conflicts_with_all = ["history", "no_history"])]
    pub queue: Vec<String>,
    /// Part of this gateway in the shared queue
    #[arg(long, value_name = "ROLE", requires = "queue", value_enum, default_value_t)]
    pub queue_role: QueueRole,
    /// File with the nkey seed of this gateway, a line that begins with SU
    #[arg(long, value_name = "FILE", requires = "queue")]
    pub queue_nkey: Option<PathBuf>,
    /// File with certificates of authorities (PEM) for the queue's server, in addition to those of
    /// the system
    #[arg(long, value_name = "FILE", requires = "queue")]
    pub queue_ca: Option<PathBuf>,
    /// Seconds after which a job of a worker that is silent goes to another one. Use the same value
    /// for all gateways
    #[arg(long, value_name = "SECONDS", requires = "queue", value_parser = lease, default_value = "30")]
    pub queue_lease: Duration,
    /// Maximum number of jobs that this gateway takes from the shared queue at a time. Best is the
    /// --max-batch of its diffusion service plus 1
    #[arg(long, value_name = "N", requires = "queue", default_value = "5")]
    pub queue_claims: NonZeroUsize,
    /// Maximum number of queued and running jobs in the shared queue; further ones are rejected and
    /// told when to retry. Fixed when the queue is created
    #[arg(long, value_name = "N", requires = "queue", default_value_t = 10_000,
        value_parser = clap::value_parser!(u32).range(1..))]
    pub queue_max: u32,
    /// Copies of the queue in a cluster of servers: 1, 3 or 5. Fixed when the queue is created
    #[arg(long, value_name = "N", requires = "queue", default_value = "1", value_parser = replicas)]
    pub queue_replicas: usize,
}

impl QueueArgs {
    /// `None` without `--queue`.
    pub fn options(self) -> Option<QueueOptions> {
        let Self {
            queue: urls,
            queue_role: role,
            queue_nkey: nkey,
            queue_ca: ca,
            queue_lease: lease,
            queue_claims: claims,
            queue_max: max_jobs,
            queue_replicas: replicas,
        } = self;
        let options = QueueOptions { urls, role, nkey, ca, lease, claims, max_jobs, replicas };
        (!options.urls.is_empty()).then_some(options)
    }
}

impl QueueOptions {
    /// What to call the servers in messages.
    pub fn place(&self) -> String {
        self.urls.join(", ")
    }

    /// Whether a connection without TLS is refused.
    pub fn is_encrypted(&self) -> bool {
        self.urls.iter().any(|url| url.starts_with("tls://"))
    }
}

fn queue_url(text: &str) -> Result<String, String> {
    let rest = text.strip_prefix("nats://").or_else(|| text.strip_prefix("tls://"));
    let Some(rest) = rest else {
        return Err("write it as nats://HOST:PORT or tls://HOST:PORT".to_owned());
    };
    if rest.contains('@') {
        return Err("it must hold no password; use --queue-nkey".to_owned());
    }
    let authority = rest.strip_suffix('/').unwrap_or(rest).parse::<http::uri::Authority>();
    match authority {
        Ok(authority) if !authority.host().is_empty() => Ok(text.to_owned()),
        _ => Err("write it as nats://HOST:PORT or tls://HOST:PORT".to_owned()),
    }
}

/// Workers that extend three times within less could not keep it.
fn lease(text: &str) -> Result<Duration, String> {
    match seconds(text)? {
        lease if lease >= Duration::from_secs(1) => Ok(lease),
        _ => Err("use at least 1 second".to_owned()),
    }
}

fn replicas(text: &str) -> Result<usize, String> {
    match text {
        "1" => Ok(1),
        "3" => Ok(3),
        "5" => Ok(5),
        _ => Err("use 1, 3 or 5".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_is_named_without_secrets() {
        for good in ["nats://127.0.0.1:4222", "tls://queue.example", "nats://[::1]:4222"] {
            assert_eq!(queue_url(good).as_deref(), Ok(good));
        }
        for (bad, words) in [
            ("http://queue:4222", "nats://HOST:PORT"),
            ("queue:4222", "nats://HOST:PORT"),
            ("nats://", "nats://HOST:PORT"),
            ("nats://me:secret@queue:4222", "--queue-nkey"),
        ] {
            assert!(queue_url(bad).expect_err("refused").contains(words), "{bad}");
        }
    }

    #[test]
    fn a_lease_is_long_enough_to_be_kept() {
        assert_eq!(lease("1.5"), Ok(Duration::from_millis(1500)));
        assert!(lease("0.5").is_err());
        assert!(replicas("2").is_err());
    }
}
