//! What an answer that is no success means.

use std::time::Duration;

use reqwest::{
    Response, StatusCode,
    header::{HeaderMap, RETRY_AFTER},
};

use super::{Ask, Client, Trouble};
use crate::HubError;

/// Most characters of a hub's own words that are repeated.
const MAX_SAID: usize = 200;

impl Client {
    /// Reads a refusal, of the hub itself or of a host that it redirects to.
    pub(super) async fn refusal(&self, ask: &Ask<'_>, response: Response, at_hub: bool) -> Trouble {
        let status = response.status();
        let host = response.url().host_str().unwrap_or_default().to_owned();
        let headers = response.headers().clone();
        let passing = |limited| Trouble::Passing {
            cause: format!("{host} answered {status}"),
            after: retry_after(&headers),
            limited,
        };
        match status {
            StatusCode::TOO_MANY_REQUESTS => passing(true),
            StatusCode::REQUEST_TIMEOUT => passing(false),
            _ if status.is_server_error() => passing(false),
            // A signed URL expires; the hub gives a new one.
            StatusCode::FORBIDDEN | StatusCode::UNAUTHORIZED | StatusCode::NOT_FOUND if !at_hub => {
                passing(false)
            }
            _ => self.means(ask, &host, status, &headers).into(),
        }
    }

    fn means(
        &self,
        ask: &Ask<'_>,
        host: &str,
        status: StatusCode,
        headers: &HeaderMap,
    ) -> HubError {
        let repo = ask.repo.clone();
        let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
        let page = || self.url([repo.owner(), repo.name()]).to_string();
        let tokens = || self.url(["settings", "tokens"]).to_string();
        let gated = || match self.has_token() {
            true => HubError::GatedFor { page: page(), tokens: tokens(), repo: repo.clone() },
            false => HubError::Gated { page: page(), tokens: tokens(), repo: repo.clone() },
        };
        let file = || ask.url.path_segments().and_then(|mut parts| parts.next_back());
        match (status.as_u16(), text("x-error-code")) {
            (_, Some("GatedRepo")) => gated(),
            (_, Some("RevisionNotFound")) => {
                HubError::NoRevision { repo, revision: ask.what.to_owned() }
            }
            (_, Some("EntryNotFound")) => {
                HubError::NoFile { repo, file: file().unwrap_or_default().to_owned(), near: None }
            }
            // The hub answers 401 for what does not exist as well.
            (401, _) if self.has_token() => HubError::BadToken { repo, host: host.to_owned() },
            (401 | 404, _) => HubError::NoRepo { repo, host: host.to_owned() },
            (403, _) => gated(),
            (status, _) => HubError::Refused {
                host: host.to_owned(),
                status,
                what: ask.what.to_owned(),
                said: said(text("x-error-message").unwrap_or_default()),
            },
        }
    }
}

/// A hub's words on one line of a terminal.
fn said(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(MAX_SAID).collect()
}

/// The time that a host asks for, in seconds. A date is not read: our own pauses do instead.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let seconds = headers.get(RETRY_AFTER)?.to_str().ok()?.trim().parse().ok()?;
    Some(Duration::from_secs(seconds))
}
