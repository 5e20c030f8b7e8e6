//! Connects to another of our services.

use std::{
    error::Error,
    task::{Context, Poll},
    time::Duration,
};

use futures::{TryFutureExt as _, future::MapOk};
use h2::Reason;
use http::{HeaderValue, Request, Response, header::AUTHORIZATION};
use http_body_util::BodyExt as _;
use llm_dit_fault::Fault;
use tokio::time;
use tonic::{
    ConnectError, Status, Streaming,
    body::Body,
    transport::{Channel, Endpoint, Uri},
};
use tower::Service;

use crate::{
    Credentials, http2,
    propagate::Carrying,
    security::{ClientTls, Key, tls::install_provider},
};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const STATUS_DETAILS: &str = "grpc-status-details-bin";
/// For the end of an answer whose content is complete.
const SEE_OUT: Duration = Duration::from_secs(5);

/// See [`Remote::link`].
pub type Link = Carrying<WithKey>;

/// Another service, and how to speak of it when something is wrong.
#[derive(Clone, Debug)]
pub struct Remote {
    service: &'static str,
    url: String,
    channel: WithKey,
}

/// A connection on which every call carries our key.
#[derive(Clone, Debug)]
pub struct WithKey {
    header: Option<HeaderValue>,
    inner: Channel,
}

/// A URL that cannot be one of our services.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
#[error(
    "'{url}' is not the URL of a service: {reason}; write it as http://HOST:PORT or https://HOST:PORT"
)]
pub struct BadUrl {
    url: String,
    reason: String,
}

/// An HTTP client for `url`, with the certificates of `tls`.
///
/// # Errors
///
/// Fails if a certificate cannot be used.
pub fn http(url: &str, tls: &ClientTls) -> Result<reqwest::ClientBuilder, reqwest::Error> {
    install_provider();
    let builder = reqwest::Client::builder();
    let builder = match tls.ca() {
        Some(ca) => builder.tls_certs_only(reqwest::Certificate::from_pem_bundle(ca.as_bytes())?),
        None if url.starts_with("https:") => builder,
        // A system without any authorities is fine when nothing is encrypted.
        None => builder.tls_certs_only([]),
    };
    Ok(match tls.identity() {
        Some(identity) => {
            builder.identity(reqwest::Identity::from_pem(identity.to_pem().as_bytes())?)
        }
        None => builder,
    })
}

/// Checks a URL on the command line; a `value_parser` for clap. `HOST:PORT` is taken for
/// `http://HOST:PORT`.
///
/// # Errors
///
/// [`BadUrl`] unless it is an `http` or `https` URL of a host, without a path.
pub fn service_url(url: &str) -> Result<String, BadUrl> {
    let url = with_scheme(url);
    parse(&url).map(|_| url)
}

/// As [`service_url`], of a gateway, which may have a path behind a proxy.
///
/// # Errors
///
/// [`BadUrl`] unless it is an `http` or `https` URL of a host.
pub fn gateway_url(url: &str) -> Result<String, BadUrl> {
    let url = with_scheme(url);
    parse_with_path(&url).map(|_| url)
}

fn with_scheme(url: &str) -> String {
    if url.contains("://") { url.to_owned() } else { format!("http://{url}") }
}

impl Remote {
    /// Names `service` ("encoder", "diffusion service") at `url`. Connects with the first call and
    /// again whenever the connection was lost, so services may start in any order. Must be called
    /// inside a tokio runtime.
    ///
    /// # Errors
    ///
    /// [`BadUrl`] if the URL is invalid or the credentials cannot be used with it.
    pub fn new(
        service: &'static str,
        url: &str,
        credentials: &Credentials,
    ) -> Result<Self, BadUrl> {
        let host = parse(url)?.host().unwrap_or_default().to_owned();
        Self::named(service, url, &host, credentials)
    }

    /// As [`Remote::new`], for a URL with an address whose certificate has the name `name`.
    ///
    /// # Errors
    ///
    /// As [`Remote::new`].
    pub fn named(
        service: &'static str,
        url: &str,
        name: &str,
        credentials: &Credentials,
    ) -> Result<Self, BadUrl> {
        let bad = |reason: String| BadUrl { url: url.to_owned(), reason };
        let uri = parse(url)?;
        let encrypted = uri.scheme_str() == Some("https");
        let mut endpoint = Endpoint::from(uri)
            .connect_timeout(CONNECT_TIMEOUT)
            .http2_keep_alive_interval(http2::KEEPALIVE_INTERVAL)
            .keep_alive_timeout(http2::KEEPALIVE_TIMEOUT)
            .http2_max_header_list_size(http2::MAX_ANSWER_HEADER_BYTES)
            .tcp_nodelay(true);
        if encrypted {
            let name = name.trim_matches(['[', ']']);
            let tls = credentials.tls.grpc(name);
            endpoint = endpoint.tls_config(tls).map_err(|error| bad(error.to_string()))?;
        }
        let header = credentials.key.as_ref().map(Key::header).transpose();
        let header = header.map_err(|error| bad(error.to_string()))?.flatten();
        let channel = WithKey { header, inner: endpoint.connect_lazy() };
        Ok(Self { service, url: url.to_owned(), channel })
    }

    /// The service's URL.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// For a generated client's `new`; cheap, all clones share one connection.
    pub fn channel(&self) -> WithKey {
        self.channel.clone()
    }

    /// The same, for calls that are part of a request: they inject its id and trace.
    pub fn link(&self) -> Link {
        Carrying(self.channel())
    }

    /// What a failed call means for our caller. What the service itself said is passed on; what
    /// the connection said becomes [`Fault::Unavailable`] with the service and its URL. An answer
    /// that HTTP/2 does not allow is [`Fault::Internal`]: it ends this call alone, and would be the
    /// same if the call were repeated.
    pub fn fault(&self, status: Status) -> Fault {
        let Self { service, url, .. } = self;
        // A status that arrived over the wire has no source; one that tonic made up here has.
        if let Some(source) = status.source() {
            let cause = root_cause(source);
            if is_bad_answer(source) {
                return Fault::Internal(format!(
                    "the {service} at {url} sent an invalid HTTP/2 answer: {cause}"
                ));
            }
            return Fault::Unavailable(format!(
                "the {service} at {url} cannot be reached: {cause}"
            ));
        }
        match Fault::from(status) {
            Fault::Unauthenticated(message) => {
                Fault::Unavailable(format!("the {service} at {url} refuses access: {message}"))
            }
            Fault::Unavailable(message) => {
                Fault::Unavailable(format!("the {service} at {url} is unavailable: {message}"))
            }
            fault => fault,
        }
    }
}

/// Whether a call failed because its connection ended, or timed out, after it had been made.
pub fn lost_connection(status: &Status) -> bool {
    let Some(mut cause) = status.source() else { return false };
    loop {
        if cause.is::<ConnectError>() {
            return false;
        }
        match cause.source() {
            Some(deeper) => cause = deeper,
            None => return true,
        }
    }
}

/// The innermost cause of an error: "Connection refused" and its like, where what is above it says
/// only that something failed. An error without a cause is its own.
pub fn root_cause<'a>(error: &'a (dyn Error + 'static)) -> &'a (dyn Error + 'static) {
    let mut cause = error;
    while let Some(deeper) = cause.source() {
        cause = deeper;
    }
    cause
}

/// Whether the peer broke the rules of HTTP/2 in one call, and the connection with all others
/// goes on.
fn is_bad_answer(error: &(dyn Error + 'static)) -> bool {
    let mut chain = std::iter::successors(Some(error), |&error| error.source());
    let error = chain.find_map(|error| error.downcast_ref::<h2::Error>());
    error.is_some_and(|error| {
        // Any other reason is a service's that ends, or that is not ready for the call.
        let broken = [
            Reason::PROTOCOL_ERROR,
            Reason::INTERNAL_ERROR,
            Reason::FLOW_CONTROL_ERROR,
            Reason::FRAME_SIZE_ERROR,
            Reason::COMPRESSION_ERROR,
        ];
        error.is_reset() && error.reason().is_some_and(|reason| broken.contains(&reason))
    })
}

impl Service<Request<Body>> for WithKey {
    type Response = Response<Body>;
    type Error = <Channel as Service<Request<Body>>>::Error;
    type Future =
        MapOk<<Channel as Service<Request<Body>>>::Future, fn(Response<Body>) -> Response<Body>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        if let Some(header) = &self.header {
            request.headers_mut().insert(AUTHORIZATION, header.clone());
        }
        self.inner.call(request).map_ok(without_details)
    }
}

/// An answer without `grpc-status-details-bin`, which none of our services sends, and which tonic
/// reads with a panic if it is not base64.
fn without_details(mut answer: Response<Body>) -> Response<Body> {
    answer.headers_mut().remove(STATUS_DETAILS);
    answer.map(|body| {
        Body::new(body.map_frame(|mut frame| {
            if let Some(trailers) = frame.trailers_mut() {
                trailers.remove(STATUS_DETAILS);
            }
            frame
        }))
    })
}

/// Reads an answer to its end when everything that was needed from it has arrived. The service then
/// sees a completed call; a dropped one would be cancelled. The caller does not wait for it.
pub fn drain_in_background<T: Send + 'static>(mut answer: Streaming<T>) {
    tokio::spawn(time::timeout(SEE_OUT, async move {
        while let Ok(Some(_)) = answer.message().await {}
    }));
}

fn bad(url: &str, reason: &str) -> BadUrl {
    BadUrl { url: url.to_owned(), reason: reason.to_owned() }
}

fn parse(url: &str) -> Result<Uri, BadUrl> {
    let uri = parse_with_path(url)?;
    match uri.path_and_query() {
        Some(path) if path.as_str() != "/" => Err(bad(url, "it has a path")),
        _ => Ok(uri),
    }
}

fn parse_with_path(url: &str) -> Result<Uri, BadUrl> {
    let bad = |reason: &str| bad(url, reason);
    let uri: Uri = url.parse().map_err(|e| bad(&format!("{e}")))?;
    match uri.scheme_str() {
        Some("http" | "https") => {}
        _ => return Err(bad("it begins with neither http:// nor https://")),
    }
    if uri.host().is_none_or(str::is_empty) {
        return Err(bad("it names no host"));
    }
    // The host may be an address in brackets, with colons in it.
    let after_host = uri.authority().and_then(|a| a.as_str().rsplit([']', '@']).next());
    if uri.port_u16().is_none() && after_host.is_some_and(|rest| rest.contains(':')) {
        return Err(bad("its port is not a number from 0 to 65535"));
    }
    Ok(uri)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn urls_are_checked_with_the_fix_in_the_message() {
        let reason = |url: &str| {
            Remote::new("encoder", url, &Credentials::default()).expect_err("refused").to_string()
        };
        for url in
            ["localhost:50051", "ftp://host:1", "http://host:1/path", "http://", "not a url", ""]
        {
            let message = reason(url);
            assert!(message.contains(url) && message.contains("http://HOST:PORT"), "{message}");
        }
        for url in ["http://localhost:50051", "https://localhost:50051/", "https://[::1]:80"] {
            assert!(Remote::new("encoder", url, &Credentials::default()).is_ok(), "{url}");
        }
        assert_eq!(service_url("gpu:50051").as_deref(), Ok("http://gpu:50051"));
        assert_eq!(service_url("[::1]:80").as_deref(), Ok("http://[::1]:80"));
        assert_eq!(gateway_url("gpu:7860/llm").as_deref(), Ok("http://gpu:7860/llm"));
        for url in ["", "gpu:50051/path", "a b", "ftp://gpu", "gpu:port", "gpu:70000", "[::1]:x"] {
            assert!(service_url(url).is_err(), "{url}");
        }
    }
}
