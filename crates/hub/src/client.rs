//! Requests to a hub. Redirects are followed here and not by the HTTP library, because the token is
//! for the hub alone.

mod refusal;
mod retry;

use std::time::Duration;

use bytes::Bytes;
use llm_dit_serving::{
    client,
    security::{ClientTls, Key},
};
use reqwest::{
    Method, Response, StatusCode, Url,
    header::{ACCEPT_ENCODING, AUTHORIZATION, HeaderMap, HeaderValue, LOCATION, USER_AGENT},
    redirect::Policy,
};

use crate::{HubError, RepoName};

pub use retry::Retry;
pub(crate) use retry::{Attempts, Trouble};

/// As many as browsers follow.
const MAX_REDIRECTS: usize = 20;
/// A host that does not answer a connection.
const CONNECT: Duration = Duration::from_secs(20);
/// A connection that has gone silent.
const SILENCE: Duration = Duration::from_secs(60);
/// Most bytes of a list of files.
const MAX_JSON: usize = 64 * 1024 * 1024;

/// A hub, and what to show it.
#[derive(Clone, Debug)]
pub struct Client {
    http: reqwest::Client,
    endpoint: Url,
    token: Option<HeaderValue>,
    retry: Retry,
}

/// Which redirects are followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Redirects {
    All,
    /// Those within the hub, such as that of a renamed repository. Others are the answer.
    Hub,
}

/// One request.
pub(crate) struct Ask<'a> {
    pub method: Method,
    pub url: Url,
    pub headers: HeaderMap,
    pub redirects: Redirects,
    /// The repository that it is about.
    pub repo: &'a RepoName,
    /// As errors name what is asked for.
    pub what: &'a str,
}

impl Client {
    /// A client of the hub at `endpoint`.
    ///
    /// # Errors
    ///
    /// [`HubError`] if that is no URL of a hub, if the token cannot be sent, or if the system has no
    /// certificates.
    pub fn new(endpoint: &str, token: Option<&Key>, retry: Retry) -> Result<Self, HubError> {
        let bad = |why: String| HubError::Endpoint { url: endpoint.to_owned(), why };
        let url = Url::parse(endpoint).map_err(|error| bad(error.to_string()))?;
        if !matches!(url.scheme(), "http" | "https") || url.host().is_none() {
            return Err(bad("it is not an http or https URL".to_owned()));
        }
        let token = token.map(Key::header).transpose();
        let token = token.map_err(|error| HubError::Token(error.to_string()))?.flatten();
        if token.is_some() && url.scheme() == "http" && !is_loopback(&url) {
            return Err(bad("the token would cross the network unencrypted".to_owned()));
        }
        let setup = |error: reqwest::Error| HubError::Client {
            url: endpoint.to_owned(),
            cause: error.to_string(),
        };
        let builder = client::http(endpoint, &ClientTls::default()).map_err(setup)?;
        let http = builder
            .redirect(Policy::none())
            .connect_timeout(CONNECT)
            .read_timeout(SILENCE)
            .build()
            .map_err(setup)?;
        Ok(Self { http, endpoint: url, token, retry })
    }

    /// The host, as messages name it.
    pub fn host(&self) -> &str {
        self.endpoint.host_str().unwrap_or_default()
    }

    /// How requests are repeated.
    pub(crate) fn retry(&self) -> Retry {
        self.retry
    }

    /// Whether a token is shown.
    pub(crate) fn has_token(&self) -> bool {
        self.token.is_some()
    }

    /// A URL of the hub with these parts of a path, each of them escaped.
    pub(crate) fn url<'a>(&self, parts: impl IntoIterator<Item = &'a str>) -> Url {
        let mut url = self.endpoint.clone();
        // An http or https URL has a path.
        if let Ok(mut path) = url.path_segments_mut() {
            path.pop_if_empty().extend(parts);
        }
        url
    }

    /// Asks once. Success, 416 and, if they are not followed, redirects are answers.
    pub(crate) async fn ask(&self, ask: &Ask<'_>) -> Result<Response, Trouble> {
        let mut url = ask.url.clone();
        let mut at_hub = true;
        for _ in 0..MAX_REDIRECTS {
            let response = self.send(ask, &url, at_hub).await?;
            let status = response.status();
            if !status.is_redirection() || status == StatusCode::NOT_MODIFIED {
                let known = status.is_success() || status == StatusCode::RANGE_NOT_SATISFIABLE;
                return if known {
                    Ok(response)
                } else {
                    Err(self.refusal(ask, response, at_hub).await)
                };
            }
            let next = target(ask, &url, &response)?;
            let leaves = next.origin() != self.endpoint.origin();
            if leaves && ask.redirects == Redirects::Hub {
                return Ok(response);
            }
            // A host that sends us back to the hub chose that URL, and gets no token into it.
            at_hub &= !leaves;
            url = next;
        }
        Err(redirect(ask, &ask.url, &url, "there are too many redirects").into())
    }

    async fn send(&self, ask: &Ask<'_>, url: &Url, at_hub: bool) -> Result<Response, Trouble> {
        let mut request = self
            .http
            .request(ask.method.clone(), url.clone())
            .header(USER_AGENT, concat!("llm-dit/", env!("CARGO_PKG_VERSION")))
            // Sizes and ranges are those of the file, not of a compressed one.
            .header(ACCEPT_ENCODING, "identity")
            .headers(ask.headers.clone());
        if let Some(token) = self.token.as_ref().filter(|_| at_hub) {
            request = request.header(AUTHORIZATION, token.clone());
        }
        request.send().await.map_err(|error| Trouble::lost(url, &error))
    }

    /// Asks for JSON until there is an answer.
    pub(crate) async fn json(
        &self,
        ask: &Ask<'_>,
        mut attempts: Attempts<'_>,
    ) -> Result<Bytes, HubError> {
        loop {
            let answer = match self.ask(ask).await {
                Ok(response) => self.body(ask, response).await,
                Err(trouble) => Err(trouble),
            };
            match answer {
                Ok(body) => return Ok(body),
                Err(trouble) => attempts.failed(self, trouble).await?,
            }
        }
    }

    async fn body(&self, ask: &Ask<'_>, mut response: Response) -> Result<Bytes, Trouble> {
        let mut body = Vec::new();
        let lost = |error| Trouble::lost(&ask.url, &error);
        while let Some(chunk) = response.chunk().await.map_err(lost)? {
            if body.len() + chunk.len() > MAX_JSON {
                return Err(self.strange(ask.what, "it is too long").into());
            }
            body.extend_from_slice(&chunk);
        }
        Ok(body.into())
    }

    /// An answer that cannot be understood.
    pub(crate) fn strange(&self, what: &str, why: impl ToString) -> HubError {
        let host = self.host().to_owned();
        HubError::Strange { host, what: what.to_owned(), why: why.to_string() }
    }
}

/// Where a redirect leads.
fn target(ask: &Ask<'_>, url: &Url, response: &Response) -> Result<Url, Trouble> {
    let location = response.headers().get(LOCATION).and_then(|value| value.to_str().ok());
    let next = location.and_then(|location| url.join(location).ok());
    let Some(mut next) = next else {
        return Err(redirect(ask, url, url, "it has no readable target").into());
    };
    if !matches!(next.scheme(), "http" | "https") {
        return Err(redirect(ask, url, &next, "it is not an http or https URL").into());
    }
    if url.scheme() == "https" && next.scheme() == "http" {
        return Err(redirect(ask, url, &next, "it is not encrypted").into());
    }
    // Names and passwords in a URL would be sent as credentials. Both calls succeed on such URLs.
    let _ = next.set_username("");
    let _ = next.set_password(None);
    Ok(next)
}

fn redirect(ask: &Ask<'_>, from: &Url, to: &Url, why: &'static str) -> HubError {
    HubError::Redirect {
        what: ask.what.to_owned(),
        host: from.host_str().unwrap_or_default().to_owned(),
        // Without its query, which may hold a signature.
        to: format!("{}://{}", to.scheme(), to.host_str().unwrap_or_default()),
        why,
    }
}

fn is_loopback(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default();
    let address = host.trim_matches(['[', ']']).parse::<std::net::IpAddr>();
    host == "localhost" || address.is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(endpoint: &str, token: Option<&str>) -> Result<Client, HubError> {
        let token = token.map(|token| Key::from(token.to_owned()));
        Client::new(endpoint, token.as_ref(), Retry::default())
    }

    #[test]
    fn urls_are_escaped_and_keep_the_path_of_a_mirror() {
        let client = client("http://127.0.0.1:1/hub/", None).expect("a URL");
        let url = client.url(["a", "resolve", "refs/pr/1", "x y#?%.bin"]);
        assert_eq!(
            url.as_str(),
            "http://127.0.0.1:1/hub/a/resolve/refs%2Fpr%2F1/x%20y%23%3F%25.bin"
        );
    }

    #[test]
    fn a_token_needs_encryption_outside_this_machine() {
        for local in ["http://127.0.0.1:9", "http://localhost", "http://[::1]:9"] {
            assert!(client(local, Some("hf_x")).is_ok(), "{local}");
        }
        let error = client("http://mirror.example", Some("hf_x")).expect_err("plain").to_string();
        assert!(error.contains("unencrypted") && !error.contains("hf_x"), "{error}");
        assert!(client("http://mirror.example", None).is_ok());
        assert!(client("ftp://x", None).is_err() && client("x", None).is_err());
        assert!(client("http://127.0.0.1", Some("two\nlines")).is_err());
    }
}
