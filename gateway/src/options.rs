//! What a gateway is started with.

use std::{fmt, path::PathBuf, str::FromStr, time::Duration};

use clap::Args;
use http::HeaderValue;
use llm_dit_heylook::HeylookEncoder;
use llm_dit_serving::{
    Credentials, Grace,
    client::{BadUrl, service_url},
};

use crate::guard::hosts;

pub const DEFAULT_ENCODER: &str = "http://127.0.0.1:50051";
pub const DEFAULT_DIFFUSION: &str = "http://127.0.0.1:50052";

/// What encoders are called that nobody gave a name.
pub const LOCAL: &str = "local";
/// What the encoder of `--api-url` is called.
pub const HEYLOOK: &str = "heylookitsanllm";
/// What the diffusion services' own encoder is called.
pub const DIFFUSION: &str = "diffusion";

/// Which services there are, and what the gateway keeps.
#[derive(Clone, Debug, Default)]
pub struct GatewayOptions {
    /// Encoders whose embeddings are sent to a diffusion service. Empty: the diffusion services'
    /// own if they have one, which takes the gateway out of the data path, else the one at
    /// [`DEFAULT_ENCODER`].
    pub encoders: Vec<EncoderTarget>,
    /// Empty: the one at [`DEFAULT_DIFFUSION`].
    pub diffusion: Vec<String>,
    /// A heylookitsanllm server; what requests use when `encoders` is empty.
    pub heylook: Option<HeylookEncoder>,
    pub keep: KeepOptions,
    pub access: AccessOptions,
    /// What is shown to the services, and asked of them.
    pub credentials: Credentials,
    pub grace: Grace,
}

/// Who may ask, and for how long.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AccessOptions {
    /// Pages from elsewhere that browsers let use this gateway, as in `https://studio.example`.
    pub cors_origins: Vec<HeaderValue>,
    /// Names that lead here and that anybody could have registered, in lower case. Only a gateway
    /// without keys and TLS looks.
    pub allowed_hosts: Vec<String>,
    /// Longest time for one picture, its wait included. `None`: as long as it takes.
    pub request_timeout: Option<Duration>,
}

/// The flags behind [`AccessOptions`], for every program that runs a gateway.
#[derive(Clone, Debug, Args)]
pub struct AccessArgs {
    /// Let pages of this origin use the gateway in a browser, as in https://HOST; repeat
    /// it, or write a list with commas [default: only the gateway's own page]
    #[arg(long = "cors-origin", value_name = "ORIGIN", value_delimiter = ',', value_parser = origin)]
    pub cors_origins: Vec<HeaderValue>,
    /// Answer to this name too, as in gpu.example.org; repeat it, or write a list with commas. Without
    /// keys and TLS a gateway answers to addresses, names without a dot, and .local, .localhost,
    /// .internal and .home.arpa only
    #[arg(long = "allowed-host", value_name = "NAME", value_delimiter = ',', value_parser = host)]
    pub allowed_hosts: Vec<String>,
    /// Longest time for one picture in seconds, its wait included; clients may ask for less with
    /// X-Request-Timeout [default: as long as it takes]
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    pub request_timeout: Option<Duration>,
}

impl From<AccessArgs> for AccessOptions {
    fn from(args: AccessArgs) -> Self {
        let AccessArgs { cors_origins, allowed_hosts, request_timeout } = args;
        Self { cors_origins, allowed_hosts, request_timeout }
    }
}

/// As browsers write one: scheme and authority, and nothing after it.
fn origin(text: &str) -> Result<HeaderValue, String> {
    let bad = || "write it as https://HOST or https://HOST:PORT, as browsers do".to_owned();
    let uri: http::Uri = text.parse().map_err(|_| bad())?;
    let is_origin = uri.scheme().is_some() && uri.authority().is_some() && !text.ends_with('/');
    let is_bare = uri.path_and_query().is_none_or(|path| path == "/");
    if !is_origin || !is_bare || text.contains('@') {
        return Err(bad());
    }
    text.to_ascii_lowercase().parse().map_err(|_| bad())
}

/// A name as in `Host`, but for the port.
fn host(text: &str) -> Result<String, String> {
    let name = hosts::name(text).filter(|name| name.len() == text.trim_end_matches('.').len());
    name.ok_or_else(|| "write the name alone, as in gpu.example.org".to_owned())
}

pub(crate) fn seconds(text: &str) -> Result<Duration, String> {
    let bad = || "use seconds, such as 30 or 0.5".to_owned();
    let number: f64 = text.trim().parse().map_err(|_| bad())?;
    if number > 0.0 { Duration::try_from_secs_f64(number).map_err(|_| bad()) } else { Err(bad()) }
}

/// An encoder service. Those of one name share the work.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EncoderTarget {
    pub name: String,
    pub url: String,
}

/// Bounds, folders, and what is remembered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeepOptions {
    /// Templates beside the built-in ones.
    pub templates_dir: Option<PathBuf>,
    pub history: History,
    pub history_max: usize,
    pub history_bytes: u64,
    /// `None`: `embeddings` in the data folder.
    pub embeddings_dir: Option<PathBuf>,
    pub embedding_cache_bytes: usize,
    /// Pictures that may be asked for at the same time.
    pub max_requests: usize,
    pub jobs: JobLimits,
}

/// Bounds of jobs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct JobLimits {
    /// Jobs that are over and still known.
    pub max: usize,
    /// Days for which they are.
    pub days: u32,
    /// Times that a job's picture is begun before its failure is final.
    pub attempts: u32,
}

/// Where pictures are kept.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum History {
    #[default]
    Off,
    /// Must be there and ours alone.
    Folder(PathBuf),
    /// In the user's data folder, unless another gateway has it.
    DataFolder,
}

/// The flags behind [`KeepOptions`], for every program that runs a gateway.
#[derive(Clone, Debug, Args)]
pub struct KeepArgs {
    /// Folder of prompt templates beside the built-in ones; one of the same name replaces it
    #[arg(long, value_name = "DIR")]
    pub templates_dir: Option<PathBuf>,
    /// Folder for the pictures that were made [default: history in the user's data folder]
    #[arg(long, value_name = "DIR", conflicts_with = "no_history")]
    pub history: Option<PathBuf>,
    /// Keep no pictures
    #[arg(long)]
    pub no_history: bool,
    /// Pictures that are kept; the oldest go first
    #[arg(long, value_name = "N", default_value_t = 1000)]
    pub history_max: usize,
    /// MiB of pictures that are kept
    #[arg(long, value_name = "MIB", default_value_t = 2048)]
    pub history_mib: u64,
    /// Folder that /api/save-embeddings writes to [default: embeddings in the user's data folder]
    #[arg(long, value_name = "DIR")]
    pub embeddings_dir: Option<PathBuf>,
    /// MiB of embeddings that are remembered; 0 for none
    #[arg(long, value_name = "MIB", default_value_t = 256)]
    pub embedding_cache_mib: usize,
    /// Pictures that may be asked for at the same time; more are told to try again
    #[arg(long, value_name = "N", default_value_t = 64)]
    pub max_requests: usize,
    #[command(flatten)]
    pub jobs: JobArgs,
}

/// The flags behind [`JobLimits`].
#[derive(Clone, Debug, Args)]
pub struct JobArgs {
    /// Jobs that are over and still known; the oldest are forgotten first, their pictures are not
    #[arg(long, value_name = "N", default_value_t = JobLimits::default().max)]
    pub jobs_max: usize,
    /// Days for which jobs that are over are known
    #[arg(long, value_name = "DAYS", default_value_t = JobLimits::default().days)]
    pub jobs_days: u32,
    /// Times that a job is begun, when services go away while it is made, before it has failed
    #[arg(long, value_name = "N", default_value_t = JobLimits::default().attempts,
        value_parser = clap::value_parser!(u32).range(1..))]
    pub job_attempts: u32,
}

impl From<JobArgs> for JobLimits {
    fn from(args: JobArgs) -> Self {
        Self { max: args.jobs_max, days: args.jobs_days, attempts: args.job_attempts }
    }
}

impl Default for JobLimits {
    fn default() -> Self {
        Self { max: 1000, days: 7, attempts: 10 }
    }
}

impl Default for KeepOptions {
    /// What the flags say when there are none, but no history.
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
        }
    }
}

impl From<KeepArgs> for KeepOptions {
    fn from(args: KeepArgs) -> Self {
        let history = match args.history {
            _ if args.no_history => History::Off,
            Some(folder) => History::Folder(folder),
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
        }
    }
}

/// Why a value of `--encoder` is none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadTarget {
    #[error(transparent)]
    Url(#[from] BadUrl),
    #[error(
        "'{0}' cannot be the name of an encoder; use letters, digits, - and _, and neither '{HEYLOOK}' nor '{DIFFUSION}'"
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
            // A URL of ours has no query, so an equals sign belongs to a name.
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
        assert!(matches!(parse("big=mac:1"), Err(BadTarget::Url(_))));
    }
}
