//! The options of a gateway.

mod queue;

use std::{
    fmt,
    net::{Ipv4Addr, Ipv6Addr},
    path::PathBuf,
    str::FromStr,
    time::Duration,
};

use clap::Args;
use http::HeaderValue;
use ipnet::{Ipv4Net, Ipv6Net};
use llm_dit_heylook::HeylookEncoder;
use llm_dit_memory::MemoryBudget;
use llm_dit_serving::{
    Credentials, Grace,
    client::{BadUrl, service_url},
};

pub use self::queue::{QueueArgs, QueueOptions, QueueRole};
use crate::{forwarded::TrustedProxy, hosts};

/// URL of the encoder if none is configured.
pub const DEFAULT_ENCODER: &str = "http://127.0.0.1:50051";
/// URL of the diffusion service if none is configured.
pub const DEFAULT_DIFFUSION: &str = "http://127.0.0.1:50052";

/// The name of encoders without a name of their own.
pub const LOCAL: &str = "local";
/// The name of the encoder of `--api-url`.
pub const HEYLOOK: &str = "heylookitsanllm";
/// The name of the diffusion services' own encoder.
pub const DIFFUSION: &str = "diffusion";

/// The upstream services, and what the gateway stores.
#[derive(Clone, Debug, Default)]
pub struct GatewayOptions {
    /// Encoders whose embeddings the gateway sends to a diffusion service. If empty: the diffusion
    /// services' own encoder if they have one (embeddings then bypass the gateway), else the one at
    /// [`DEFAULT_ENCODER`].
    pub encoders: Vec<EncoderTarget>,
    /// If empty: the one at [`DEFAULT_DIFFUSION`].
    pub diffusion: Vec<String>,
    /// A heylookitsanllm server; requests use it when `encoders` is empty.
    pub heylook: Option<HeylookEncoder>,
    pub keep: KeepOptions,
    pub access: AccessOptions,
    /// Other names of models for clients of OpenAI's API.
    pub model_aliases: Vec<ModelAlias>,
    /// The services run in this process, so that their URLs say nothing to a client.
    pub in_process: bool,
    /// Credentials for calls to the services.
    pub credentials: Credentials,
    pub grace: Grace,
    /// Memory for the bodies and images of all requests together.
    pub memory: MemoryBudget,
}

/// Access rules and time limits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccessOptions {
    /// Origins of other pages that may call this gateway from a browser, such as
    /// `https://studio.example`.
    pub cors_origins: Vec<HeaderValue>,
    /// Additional accepted host names, in lower case. Checked only on a gateway without keys and
    /// TLS, where a registered domain could be pointed at it (DNS rebinding).
    pub allowed_hosts: Vec<String>,
    /// Proxies whose `X-Forwarded-*` and `Forwarded` headers say where clients reach this gateway.
    pub trusted_proxies: Vec<TrustedProxy>,
    /// Time limit for one image, queueing included. `None`: no limit.
    pub request_timeout: Option<Duration>,
}

/// The flags of [`AccessOptions`], for every program that runs a gateway.
#[derive(Clone, Debug, Args)]
pub struct AccessArgs {
    /// Allow pages of this origin to call the gateway from a browser, written as https://HOST.
    /// Repeatable or comma-separated [default: only the gateway's own page]
    #[arg(long = "cors-origin", value_name = "ORIGIN", value_delimiter = ',', value_parser = origin)]
    pub cors_origins: Vec<HeaderValue>,
    /// Accept this host name too, such as gpu.example.org. Repeatable or comma-separated. Without
    /// keys and TLS the gateway accepts only IP addresses, names without a dot, and .local,
    /// .localhost, .internal and .home.arpa
    #[arg(long = "allowed-host", value_name = "NAME", value_delimiter = ',', value_parser = host)]
    pub allowed_hosts: Vec<String>,
    /// Address or network (CIDR) of a reverse proxy whose X-Forwarded-Proto, -Host, -Port and -Prefix
    /// or Forwarded headers are used in URLs and cookies; none trusts no proxy. Repeatable or
    /// comma-separated
    #[arg(long = "trusted-proxy", value_name = "ADDRESS", value_delimiter = ',',
        default_values_t = AccessOptions::default().trusted_proxies)]
    pub trusted_proxies: Vec<TrustedProxy>,
    /// Time limit in seconds for one image, queueing included. Clients can set a shorter one with
    /// X-Request-Timeout [default: no limit]
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    pub request_timeout: Option<Duration>,
}

impl From<AccessArgs> for AccessOptions {
    fn from(args: AccessArgs) -> Self {
        let AccessArgs { cors_origins, allowed_hosts, trusted_proxies, request_timeout } = args;
        Self { cors_origins, allowed_hosts, trusted_proxies, request_timeout }
    }
}

impl Default for AccessOptions {
    /// The defaults of the flags: a proxy may run on this machine.
    fn default() -> Self {
        let loopback = [
            Ipv4Net::new_assert(Ipv4Addr::new(127, 0, 0, 0), 8).into(),
            Ipv6Net::new_assert(Ipv6Addr::LOCALHOST, 128).into(),
        ];
        Self {
            cors_origins: Vec::new(),
            allowed_hosts: Vec::new(),
            trusted_proxies: loopback.map(TrustedProxy::Network).into(),
            request_timeout: None,
        }
    }
}

/// The flags for clients that were written for OpenAI's API.
#[derive(Clone, Debug, Default, Args)]
pub struct OpenAiArgs {
    /// Another name of a model for clients of /v1, such as gpt-image-1=Z-Image-Turbo. Repeatable or
    /// comma-separated
    #[arg(long = "model-alias", value_name = "NAME=MODEL", value_delimiter = ',')]
    pub model_aliases: Vec<ModelAlias>,
}

/// A name under which clients of OpenAI's API may ask for a model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelAlias {
    pub name: String,
    pub model: String,
}

impl ModelAlias {
    /// Checks that no name stands for two models.
    ///
    /// # Errors
    ///
    /// A message for the operator.
    pub(crate) fn check_names(aliases: &[Self]) -> Result<(), String> {
        for (index, Self { name, model }) in aliases.iter().enumerate() {
            if aliases[..index].iter().any(|other| other.name == *name) {
                return Err(format!("--model-alias {name}={model}: '{name}' is given twice"));
            }
        }
        Ok(())
    }

    /// Checks the aliases of a server that has these models.
    ///
    /// # Errors
    ///
    /// A message for the operator: a name is given twice or is a model's, or there is no such model.
    pub fn check(aliases: &[Self], models: &[&str]) -> Result<(), String> {
        Self::check_names(aliases)?;
        for Self { name, model } in aliases {
            if models.contains(&name.as_str()) {
                return Err(format!(
                    "--model-alias {name}={model}: '{name}' is the name of a model"
                ));
            }
            if !models.contains(&model.as_str()) {
                let known = models.join("' or '");
                return Err(format!(
                    "--model-alias {name}={model}: there is no model '{model}'; use '{known}'"
                ));
            }
        }
        Ok(())
    }
}

/// `NAME=MODEL`.
impl FromStr for ModelAlias {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once('=') {
            Some((name, model)) if !name.is_empty() && !model.is_empty() => {
                Ok(Self { name: name.to_owned(), model: model.to_owned() })
            }
            _ => Err("write it as NAME=MODEL, such as gpt-image-1=Z-Image-Turbo".to_owned()),
        }
    }
}

impl fmt::Display for ModelAlias {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}", self.name, self.model)
    }
}

/// An origin as browsers send it: scheme and authority, nothing after it.
fn origin(text: &str) -> Result<HeaderValue, String> {
    let bad = || "write it as https://HOST or https://HOST:PORT".to_owned();
    let uri: http::Uri = text.parse().map_err(|_| bad())?;
    let is_origin = uri.scheme().is_some() && uri.authority().is_some() && !text.ends_with('/');
    let is_bare = uri.path_and_query().is_none_or(|path| path == "/");
    if !is_origin || !is_bare || text.contains('@') {
        return Err(bad());
    }
    text.to_ascii_lowercase().parse().map_err(|_| bad())
}

/// A host name without a port.
fn host(text: &str) -> Result<String, String> {
    let name = hosts::name(text).filter(|name| name.len() == text.trim_end_matches('.').len());
    name.ok_or_else(|| "write the name alone, as in gpu.example.org".to_owned())
}

pub(crate) fn seconds(text: &str) -> Result<Duration, String> {
    let bad = || "use seconds, such as 30 or 0.5".to_owned();
    let number: f64 = text.trim().parse().map_err(|_| bad())?;
    if number > 0.0 { Duration::try_from_secs_f64(number).map_err(|_| bad()) } else { Err(bad()) }
}

/// An encoder service. Encoders of the same name share the work.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EncoderTarget {
    pub name: String,
    pub url: String,
}

/// Limits, folders and caches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeepOptions {
    /// Templates in addition to the built-in ones.
    pub templates_dir: Option<PathBuf>,
    pub history: History,
    pub history_max: usize,
    pub history_bytes: u64,
    /// `None`: `embeddings` in the data folder.
    pub embeddings_dir: Option<PathBuf>,
    pub embedding_cache_bytes: usize,
    /// Maximum number of image requests in flight.
    pub max_requests: usize,
    pub jobs: JobLimits,
    /// `None`: jobs and history are this gateway's own.
    pub queue: Option<QueueOptions>,
}

/// Limits for jobs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct JobLimits {
    /// Maximum number of finished jobs to remember.
    pub max: usize,
    /// Days to remember finished jobs.
    pub days: u32,
    /// Attempts at a job before it fails.
    pub attempts: u32,
    /// Crashes of services during a job before it fails.
    pub crashes: u32,
    /// Bytes of images of finished jobs that may wait in memory while they cannot be stored.
    pub unstored_bytes: usize,
}

/// Where the history of images is stored.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum History {
    #[default]
    Off,
    /// The folder must be usable, and no other gateway may use it.
    Folder(PathBuf),
    /// In the user's data folder, unless another gateway already uses it.
    DataFolder,
}

/// The flags of [`KeepOptions`], for every program that runs a gateway.
#[derive(Clone, Debug, Args)]
pub struct KeepArgs {
    /// Folder of additional prompt templates; a template with the name of a built-in one replaces
    /// it
    #[arg(long, value_name = "DIR")]
    pub templates_dir: Option<PathBuf>,
    /// Folder for the image history [default: history in the user's data folder]
    #[arg(long, value_name = "DIR", conflicts_with = "no_history")]
    pub history: Option<PathBuf>,
    /// Store no image history
    #[arg(long)]
    pub no_history: bool,
    /// Maximum number of images in the history; the oldest are removed first
    #[arg(long, value_name = "N", default_value_t = 1000)]
    pub history_max: usize,
    /// Maximum size of the history in MiB
    #[arg(long, value_name = "MIB", default_value_t = 2048)]
    pub history_mib: u64,
    /// Folder that /api/save-embeddings writes to [default: embeddings in the user's data folder]
    #[arg(long, value_name = "DIR")]
    pub embeddings_dir: Option<PathBuf>,
    /// Size of the embedding cache in MiB; 0 disables it
    #[arg(long, value_name = "MIB", default_value_t = 256)]
    pub embedding_cache_mib: usize,
    /// Maximum number of image requests in flight; further ones are rejected and told when to retry
    #[arg(long, value_name = "N", default_value_t = 64)]
    pub max_requests: usize,
    #[command(flatten)]
    pub jobs: JobArgs,
    #[command(flatten)]
    pub queue: QueueArgs,
}

/// The flags of [`JobLimits`].
#[derive(Clone, Debug, Args)]
pub struct JobArgs {
    /// Maximum number of finished jobs to remember; the oldest are forgotten first, their images
    /// stay in the history
    #[arg(long, value_name = "N", default_value_t = JobLimits::default().max)]
    pub jobs_max: usize,
    /// Days to remember finished jobs
    #[arg(long, value_name = "DAYS", default_value_t = JobLimits::default().days)]
    pub jobs_days: u32,
    /// Maximum number of attempts at a job; it is retried when a service fails while making it
    #[arg(long, value_name = "N", default_value_t = JobLimits::default().attempts,
        value_parser = clap::value_parser!(u32).range(1..))]
    pub job_attempts: u32,
    /// Maximum number of times that a service may crash during a job before the job fails: a job
    /// that crashes every service must not take down all of them
    #[arg(long, value_name = "N", default_value_t = JobLimits::default().crashes,
        value_parser = clap::value_parser!(u32).range(1..))]
    pub job_crashes: u32,
}

impl From<JobArgs> for JobLimits {
    fn from(args: JobArgs) -> Self {
        Self {
            max: args.jobs_max,
            days: args.jobs_days,
            attempts: args.job_attempts,
            crashes: args.job_crashes,
            ..Self::default()
        }
    }
}

impl Default for JobLimits {
    fn default() -> Self {
        Self { max: 1000, days: 7, attempts: 10, crashes: 2, unstored_bytes: 256 << 20 }
    }
}

impl Default for KeepOptions {
    /// The defaults of the flags, but without a history.
    fn default() -> Self {
        Self {
            templates_dir: None,
            history: History::Off,
            history_max: 1000,
            history_bytes: 2048 << 20,
            embeddings_dir: None,
            embedding_cache_bytes: 256 << 20,
            max_requests: 64,
            jobs: JobLimits::default(),
            queue: None,
        }
    }
}

impl From<KeepArgs> for KeepOptions {
    fn from(args: KeepArgs) -> Self {
        let history = match args.history {
            _ if args.no_history => History::Off,
            Some(folder) => History::Folder(folder),
            None if !args.queue.queue.is_empty() => History::Off,
            None => History::DataFolder,
        };
        Self {
            templates_dir: args.templates_dir,
            history,
            history_max: args.history_max,
            history_bytes: args.history_mib.saturating_mul(1 << 20),
            embeddings_dir: args.embeddings_dir,
            embedding_cache_bytes: args.embedding_cache_mib.saturating_mul(1 << 20),
            max_requests: args.max_requests.max(1),
            jobs: args.jobs.into(),
            queue: args.queue.options(),
        }
    }
}

/// Why a value of `--encoder` is invalid.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadTarget {
    #[error(transparent)]
    Url(#[from] BadUrl),
    #[error(
        "'{0}' is not a valid encoder name; use letters, digits, - and _, but not '{HEYLOOK}' or '{DIFFUSION}'"
    )]
    Name(String),
}

impl EncoderTarget {
    /// An encoder without a name.
    pub fn local(url: impl Into<String>) -> Self {
        Self { name: LOCAL.to_owned(), url: url.into() }
    }
}

/// `URL` or `NAME=URL`.
impl FromStr for EncoderTarget {
    type Err = BadTarget;

    fn from_str(text: &str) -> Result<Self, BadTarget> {
        let (name, url) = match text.split_once('=') {
            // Service URLs have no query, so an equals sign ends a name.
            Some((name, url)) => (name, url),
            None => (LOCAL, text),
        };
        let valid = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        if name.is_empty() || !name.chars().all(valid) || [HEYLOOK, DIFFUSION].contains(&name) {
            return Err(BadTarget::Name(name.to_owned()));
        }
        Ok(Self { name: name.to_owned(), url: service_url(url)? })
    }
}

impl fmt::Display for EncoderTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}", self.name, self.url)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn origins_are_written_as_browsers_do() {
        assert_eq!(
            origin("HTTPS://Studio.example:8443").expect("fine"),
            "https://studio.example:8443"
        );
        for bad in ["*", "null", "studio.example", "https://a/", "https://a/b", "https://x@a", ""] {
            assert!(origin(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn an_alias_stands_for_a_model_that_exists() {
        let alias = |text: &str| text.parse::<ModelAlias>().expect("valid");
        let check = |aliases: &[&str]| {
            let aliases: Vec<_> = aliases.iter().map(|text| alias(text)).collect();
            ModelAlias::check(&aliases, &["demo", "big"])
        };
        assert_eq!(check(&["gpt-image-1=demo", "dall-e-3=big"]), Ok(()));
        for (aliases, words) in [
            (&["a=other"][..], "no model 'other'; use 'demo' or 'big'"),
            (&["demo=big"], "'demo' is the name of a model"),
            (&["a=demo", "a=big"], "given twice"),
        ] {
            let error = check(aliases).expect_err("refused");
            assert!(error.contains(words), "{error}");
        }
        for bad in ["", "a", "=demo", "a="] {
            assert!(bad.parse::<ModelAlias>().expect_err("refused").contains("NAME=MODEL"));
        }
    }

    #[test]
    fn times_are_seconds() {
        assert_eq!(seconds("0.5"), Ok(Duration::from_millis(500)));
        for bad in ["0", "-1", "soon", "inf", "NaN", ""] {
            assert!(seconds(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn an_encoder_has_a_name_or_is_local() {
        let parse = |text: &str| text.parse::<EncoderTarget>();
        assert_eq!(parse("http://mac:1"), Ok(EncoderTarget::local("http://mac:1")));
        let big = EncoderTarget { name: "big".into(), url: "http://mac:1".into() };
        assert_eq!(parse("big=http://mac:1"), Ok(big.clone()));
        assert_eq!(parse(&big.to_string()), Ok(big));
        for bad in ["=http://mac:1", "a b=http://mac:1", "heylookitsanllm=http://mac:1"] {
            assert!(matches!(parse(bad), Err(BadTarget::Name(_))), "{bad}");
        }
        let named = parse("big=mac:1").map(|target| target.url);
        assert_eq!(named.as_deref(), Ok("http://mac:1"));
        assert!(matches!(parse("big=ftp://mac:1"), Err(BadTarget::Url(_))));
    }
}
