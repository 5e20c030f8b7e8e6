//! One connection to one server: a single request at a time, bounded answers, no redirects.

use std::{error::Error as _, sync::Arc, time::Duration};

use bytes::{Bytes, BytesMut};
use llm_dit_serving::{
    client::{self, service_url},
    propagate,
    security::ClientTls,
};
use reqwest::{
    Client, Method, RequestBuilder, Response, Url,
    header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue},
    redirect,
};
use tokio::sync::Mutex;

use crate::{ApiKey, HeylookError, SetupError, refusal::Refusal};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// The server closes idle connections after 5 s; we stop using them before that.
const IDLE_TIMEOUT: Duration = Duration::from_secs(4);
/// 1504 tokens of width 5120 take 41 MB in base64.
const MAX_BODY: usize = 64 * 1024 * 1024;
/// Bytes that are read of a refusal; no message is longer.
const MAX_REFUSAL: usize = 64 * 1024;

/// How to ask.
#[derive(Clone, Debug)]
pub struct HeylookOptions {
    pub api_key: Option<ApiKey>,
    /// For a server at `https://`.
    pub tls: ClientTls,
    /// For one answer, loading the model included. The server drops a model when it needs the room
    /// for another, so that any call may be the one that loads.
    pub timeout: Duration,
}

/// A server. Clones share its connections and wait for each other's requests.
#[derive(Clone, Debug)]
pub struct HeylookServer {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    /// Without a slash at the end.
    url: String,
    timeout: Duration,
    key_sent: bool,
    client: Client,
    /// Held while a request is out.
    turn: Arc<Mutex<()>>,
}

impl Default for HeylookOptions {
    fn default() -> Self {
        Self { api_key: None, tls: ClientTls::default(), timeout: Duration::from_secs(600) }
    }
}

impl HeylookServer {
    /// A server at `http://HOST:PORT` or `https://HOST:PORT`. Connects with the first request.
    ///
    /// # Errors
    ///
    /// [`SetupError`] if the URL is invalid or contains credentials, or if the API key or a
    /// certificate cannot be used.
    pub fn new(url: &str, options: HeylookOptions) -> Result<Self, SetupError> {
        let secret = |url: &Url| !url.username().is_empty() || url.password().is_some();
        if url.parse().as_ref().is_ok_and(secret) {
            return Err(SetupError::SecretInUrl);
        }
        let url = service_url(url)?.trim_end_matches('/').to_owned();
        let mut headers = HeaderMap::new();
        let key = options.api_key.as_ref().map(ApiKey::header).transpose()?.flatten();
        let key_sent = key.is_some();
        headers.extend(key.map(|key| (AUTHORIZATION, key)));
        let client = client::http(&url, &options.tls)?
            .default_headers(headers)
            .timeout(options.timeout)
            .connect_timeout(CONNECT_TIMEOUT)
            .pool_idle_timeout(IDLE_TIMEOUT)
            .http1_only()
            .redirect(redirect::Policy::none())
            // The operator gives the address; proxy variables must not change it.
            .no_proxy()
            .build()?;
        let turn = Arc::default();
        let inner = Inner { url, timeout: options.timeout, key_sent, client, turn };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// The server's URL, without a slash at its end.
    pub fn url(&self) -> &str {
        &self.inner.url
    }

    pub(crate) async fn get(&self, path: &str) -> Result<Bytes, HeylookError> {
        self.send(Method::GET, path, None).await
    }

    pub(crate) async fn post(&self, path: &str, json: Vec<u8>) -> Result<Bytes, HeylookError> {
        self.send(Method::POST, path, Some(json.into())).await
    }

    /// Waits for its turn, asks, and asks once more when the connection broke or the server failed.
    ///
    /// A request that is out goes on when our caller leaves, since the server works on it just the
    /// same; the next has to wait for that anyway.
    async fn send(
        &self,
        method: Method,
        path: &str,
        json: Option<Bytes>,
    ) -> Result<Bytes, HeylookError> {
        let turn = Arc::clone(&self.inner.turn).lock_owned().await;
        let inner = Arc::clone(&self.inner);
        let path = path.to_owned();
        let mut carried = HeaderMap::new();
        propagate::inject(&mut carried);
        let asking = tokio::spawn(async move {
            let _turn = turn;
            let first = inner.attempt(&method, &path, &carried, json.clone()).await;
            match first {
                Err(Attempt { error, again: true }) => {
                    tracing::warn!(%error, "retrying the request to heylookitsanllm");
                    inner.attempt(&method, &path, &carried, json).await
                }
                first => first,
            }
        });
        let lost = |cause: tokio::task::JoinError| HeylookError::Unreachable {
            url: self.inner.url.clone(),
            cause: cause.to_string(),
        };
        asking.await.map_err(lost)?.map_err(|attempt| attempt.error)
    }
}

/// A failed attempt.
struct Attempt {
    error: HeylookError,
    /// Whether a second one has a chance.
    again: bool,
}

impl From<HeylookError> for Attempt {
    fn from(error: HeylookError) -> Self {
        Self { again: error.is_passing(), error }
    }
}

impl Inner {
    async fn attempt(
        &self,
        method: &Method,
        path: &str,
        carried: &HeaderMap,
        json: Option<Bytes>,
    ) -> Result<Bytes, Attempt> {
        let request = self.client.request(method.clone(), format!("{}{path}", self.url));
        let request = request.headers(carried.clone());
        let request = match json {
            Some(json) => json_body(request, json),
            None => request,
        };
        let mut response = request.send().await.map_err(|e| self.broken(&e))?;
        if response.status().as_u16() == 200 {
            return self.read(&mut response, MAX_BODY).await;
        }
        // What cannot be read of a refusal is not worth another error.
        let body = self.read(&mut response, MAX_REFUSAL).await.unwrap_or_default();
        let refusal = Refusal {
            url: &self.url,
            key_sent: self.key_sent,
            status: response.status(),
            headers: response.headers(),
            body: &body,
        };
        Err(refusal.error().into())
    }

    async fn read(&self, response: &mut Response, limit: usize) -> Result<Bytes, Attempt> {
        let too_long = || HeylookError::BadAnswer {
            url: self.url.clone(),
            reason: format!("it is longer than {limit} bytes"),
        };
        if response.content_length().is_some_and(|length| length > limit as u64) {
            return Err(too_long().into());
        }
        let mut body = BytesMut::new();
        while let Some(chunk) = response.chunk().await.map_err(|e| self.broken(&e))? {
            if chunk.len() > limit - body.len() {
                return Err(too_long().into());
            }
            body.extend_from_slice(&chunk);
        }
        Ok(body.freeze())
    }

    /// What a transport error means. A connection that broke is worth a second attempt, one that
    /// could not be made or an answer that did not come in time is not.
    fn broken(&self, error: &reqwest::Error) -> Attempt {
        let url = self.url.clone();
        if error.is_timeout() && !error.is_connect() {
            let error = HeylookError::TimedOut { url, after: self.timeout };
            return Attempt { error, again: false };
        }
        let cause = error.source().map_or_else(
            || "the connection failed".to_owned(),
            |cause| client::root_cause(cause).to_string(),
        );
        let error_is_connect = error.is_connect();
        Attempt { error: HeylookError::Unreachable { url, cause }, again: !error_is_connect }
    }
}

fn json_body(request: RequestBuilder, json: Bytes) -> RequestBuilder {
    request.header(CONTENT_TYPE, HeaderValue::from_static("application/json")).body(json)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_checked_and_secrets_in_them_not_repeated() {
        let new = |url: &str| HeylookServer::new(url, HeylookOptions::default());
        for url in ["http://mac:8000", "https://mac:8000/", "http://[::1]:80"] {
            assert_eq!(new(url).expect("valid").url(), url.trim_end_matches('/'));
        }
        assert_eq!(new("mac:8000").expect("valid").url(), "http://mac:8000");
        for url in ["mac:port", "ftp://mac:8000", "http://mac:8000/v1", "", "file:///etc/passwd"] {
            assert!(matches!(new(url), Err(SetupError::Url(_))), "{url}");
        }
        for url in ["http://ann:opensesame@mac:8000", "http://opensesame@mac"] {
            let error = new(url).expect_err("a secret").to_string();
            assert!(!error.contains("opensesame"), "{error}");
        }
        let api_key = Some(ApiKey::from("opensesame".to_owned()));
        let options = HeylookOptions { api_key, ..HeylookOptions::default() };
        let server = HeylookServer::new("http://mac:8000", options).expect("valid");
        assert!(!format!("{server:?}").contains("opensesame"), "{server:?}");
    }
}
