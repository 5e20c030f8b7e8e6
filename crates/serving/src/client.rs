//! Connecting to another of our services.

use std::{error::Error as _, time::Duration};

use llm_dit_proto::Fault;
use tonic::{
    Status,
    transport::{Channel, Endpoint, Uri},
};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Calls wait in queues for minutes without a byte; pings tell a busy service from a dead one.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(20);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);

/// Another service, and how to speak of it when something is wrong.
#[derive(Clone, Debug)]
pub struct Remote {
    service: &'static str,
    url: String,
    channel: Channel,
}

/// A URL that cannot be one of our services.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
#[error("'{url}' is not the URL of a service: {reason}; write it as http://HOST:PORT")]
pub struct BadUrl {
    url: String,
    reason: String,
}

/// Checks a URL on the command line; a `value_parser` for clap.
pub fn service_url(url: &str) -> Result<String, BadUrl> {
    parse(url).map(|_| url.to_owned())
}

impl Remote {
    /// Names `service` ("encoder", "diffusion service") at `url`. Connects with the first call and
    /// again whenever the connection was lost, so services may start in any order. Must be called
    /// inside a tokio runtime.
    pub fn new(service: &'static str, url: &str) -> Result<Self, BadUrl> {
        let channel = Endpoint::from(parse(url)?)
            .connect_timeout(CONNECT_TIMEOUT)
            .http2_keep_alive_interval(KEEPALIVE_INTERVAL)
            .keep_alive_timeout(KEEPALIVE_TIMEOUT)
            .tcp_nodelay(true)
            .connect_lazy();
        Ok(Self { service, url: url.to_owned(), channel })
    }

    pub fn url(&self) -> &str {
        &self.url
    }

    /// For a generated client's `new`; cheap, all clones share one connection.
    pub fn channel(&self) -> Channel {
        self.channel.clone()
    }

    /// What a failed call means for our caller. What the service itself said is passed on; what
    /// the connection said becomes [`Fault::Unavailable`] with the service and its URL.
    pub fn fault(&self, status: Status) -> Fault {
        let Self { service, url, .. } = self;
        // A status that arrived over the wire has no source; one that tonic made up here has.
        if let Some(source) = status.source() {
            let mut cause = source;
            while let Some(deeper) = cause.source() {
                cause = deeper;
            }
            return Fault::Unavailable(format!(
                "the {service} at {url} cannot be reached: {cause}"
            ));
        }
        match Fault::from(status) {
            Fault::Unavailable(message) => {
                Fault::Unavailable(format!("the {service} at {url} is unavailable: {message}"))
            }
            fault => fault,
        }
    }
}

fn parse(url: &str) -> Result<Uri, BadUrl> {
    let bad = |reason: &str| BadUrl { url: url.to_owned(), reason: reason.to_owned() };
    let uri: Uri = url.parse().map_err(|e| bad(&format!("{e}")))?;
    match uri.scheme_str() {
        Some("http") => {}
        Some("https") => return Err(bad("encrypted connections are not supported yet")),
        _ => return Err(bad("it does not begin with http://")),
    }
    if uri.host().is_none_or(str::is_empty) {
        return Err(bad("it names no host"));
    }
    if uri.path_and_query().is_some_and(|p| p.as_str() != "/") {
        return Err(bad("it has a path"));
    }
    Ok(uri)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn urls_are_checked_with_the_fix_in_the_message() {
        let reason = |url: &str| Remote::new("encoder", url).expect_err("refused").to_string();
        for url in
            ["localhost:50051", "https://host:1", "http://host:1/path", "http://", "not a url", ""]
        {
            let message = reason(url);
            assert!(message.contains(url) && message.contains("http://HOST:PORT"), "{message}");
        }
        for url in ["http://localhost:50051", "http://localhost:50051/", "http://[::1]:80"] {
            assert!(Remote::new("encoder", url).is_ok(), "{url}");
        }
    }
}
