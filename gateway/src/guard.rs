//! Access rules: requests need a key, and pages of other origins are refused.

mod sessions;

use std::net::SocketAddr;

use axum::extract::{ConnectInfo, Request};
use http::{HeaderMap, HeaderValue, Method, Uri, header};
use llm_dit_fault::Fault;
use llm_dit_serving::security::{Keys, Security, keys::Denied};

pub(crate) use self::sessions::Sessions;
use crate::{
    forwarded::{Place, TrustedProxy},
    hosts,
    options::AccessOptions,
    records::problem::Problem,
};

/// What a browser's session is kept in.
const COOKIE: &str = "llm-dit-session";

/// The access rules that every request must meet.
#[derive(Clone, Debug)]
pub(crate) struct Guard {
    pub keys: Option<Keys>,
    pub sessions: Sessions,
    /// Pages of these origins may use this gateway too.
    origins: Vec<HeaderValue>,
    /// Accepted names of this gateway, beside those that cannot be registered.
    hosts: Vec<String>,
    /// Proxies whose word counts for where clients reach us.
    proxies: Vec<TrustedProxy>,
    encrypted: bool,
}

/// Whether a request came with a key, or none is needed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Known(pub bool);

impl Guard {
    /// The checks that this port's security and access options ask for.
    pub fn new(security: &Security, access: &AccessOptions) -> Self {
        Self {
            keys: security.keys.clone(),
            sessions: Sessions::default(),
            origins: access.cors_origins.clone(),
            hosts: access.allowed_hosts.clone(),
            proxies: access.trusted_proxies.clone(),
            encrypted: security.tls.is_some(),
        }
    }

    /// Lets a request pass, with [`Known`] and [`Place`] among its extensions; to an `open` path without
    /// a key too.
    ///
    /// # Errors
    ///
    /// 401 without a key, 403 from a page or under a name that is none of ours.
    pub fn check(&self, request: &mut Request, open: bool) -> Result<(), Problem> {
        // HTTP/2 has the host in the address, so it is put where the rest looks.
        if !request.headers().contains_key(header::HOST)
            && let Some(host) = request.uri().authority()
            && let Ok(host) = HeaderValue::from_str(host.as_str())
        {
            request.headers_mut().insert(header::HOST, host);
        }
        let headers = request.headers();
        let peer = request.extensions().get::<ConnectInfo<SocketAddr>>().map(|peer| peer.0.ip());
        let place = Place::of(headers, peer, &self.proxies, self.encrypted);
        self.check_host(headers)?;
        self.check_origin(request.method(), headers, &place)?;
        let known = match self.check_key(headers) {
            Err(denied) if !open => return Err(Fault::Unauthenticated(denied.to_string()).into()),
            known => known.is_ok(),
        };
        request.extensions_mut().insert(Known(known));
        request.extensions_mut().insert(place);
        Ok(())
    }

    /// `Set-Cookie` for the owner of this key, who reaches us at `place`.
    pub fn session(&self, key: &str, place: &Place) -> Option<HeaderValue> {
        HeaderValue::try_from(cookie(&self.sessions.begin(key), place, "")).ok()
    }

    /// Ends the session of a request's cookie. Returns what is to be stored of it, if it had one.
    pub fn end_session(&self, headers: &HeaderMap) -> Option<Vec<u8>> {
        self.sessions.end(self.keys.as_ref()?, session(headers)?)
    }

    /// `Set-Cookie` that ends a session.
    pub fn no_session(&self, place: &Place) -> Option<HeaderValue> {
        HeaderValue::try_from(cookie("", place, "; Max-Age=0")).ok()
    }

    fn check_key(&self, headers: &HeaderMap) -> Result<(), Denied> {
        let Some(keys) = &self.keys else { return Ok(()) };
        let name = match keys.check(headers.get(header::AUTHORIZATION)) {
            Err(Denied::Missing) => {
                self.sessions.check(keys, session(headers).ok_or(Denied::Missing)?)?
            }
            shown => shown?,
        };
        tracing::Span::current().record("caller", &*name);
        Ok(())
    }

    /// A page could call us by a name of its own. It has no key, and no certificate for that name.
    fn check_host(&self, headers: &HeaderMap) -> Result<(), Problem> {
        if self.keys.is_some() || self.encrypted {
            return Ok(());
        }
        let host = headers.get(header::HOST);
        match host.and_then(|host| hosts::foreign(host, &self.hosts)) {
            None => Ok(()),
            Some(name) => Err(Problem::forbidden(format!(
                "this gateway has no API keys and rejects the host name {name}, which could be part of a DNS rebinding attack; --allowed-host {name} allows it"
            ))),
        }
    }

    /// A page of another origin could make its visitor's browser send requests here; the `Origin`
    /// header then names that page.
    fn check_origin(
        &self,
        method: &Method,
        headers: &HeaderMap,
        place: &Place,
    ) -> Result<(), Problem> {
        let Some(origin) = headers.get(header::ORIGIN).filter(|_| !method.is_safe()) else {
            return Ok(());
        };
        if self.origins.contains(origin) || is_ours(origin, headers, place) {
            return Ok(());
        }
        let shown = origin.to_str().unwrap_or("elsewhere");
        Err(Problem::forbidden(format!(
            "pages of the origin {shown} may not use this gateway; --cors-origin allows them"
        )))
    }
}

/// Whether a page was loaded from here, perhaps through a proxy.
fn is_ours(origin: &HeaderValue, headers: &HeaderMap, place: &Place) -> bool {
    let uri = origin.to_str().ok().and_then(|origin| origin.parse::<Uri>().ok());
    let Some(authority) = uri.as_ref().and_then(Uri::authority) else { return false };
    let host = headers.get(header::HOST);
    place.authority() == authority.as_str()
        || host.is_some_and(|host| host.as_bytes() == authority.as_str().as_bytes())
}

/// The cookie is hidden from scripts and is sent only to this gateway and only by its own pages.
fn cookie(value: &str, place: &Place, end: &str) -> String {
    let secure = if place.is_encrypted() { "; Secure" } else { "" };
    let path = place.path("/");
    format!("{COOKIE}={value}; Path={path}; HttpOnly; SameSite=Strict{secure}{end}")
}

fn session(headers: &HeaderMap) -> Option<&str> {
    let cookies = headers.get_all(header::COOKIE).iter().filter_map(|value| value.to_str().ok());
    cookies
        .flat_map(|cookies| cookies.split(';'))
        .find_map(|cookie| cookie.trim().strip_prefix(COOKIE)?.strip_prefix('='))
}

#[cfg(test)]
mod tests {
    use http::HeaderName;

    use super::*;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        let pair = |&(name, value): &(&'static str, &str)| {
            (HeaderName::from_static(name), value.parse().expect("a value"))
        };
        pairs.iter().map(pair).collect()
    }

    #[test]
    fn pages_of_others_are_turned_away() {
        let cors_origins = vec![HeaderValue::from_static("https://studio.example")];
        let access = AccessOptions { cors_origins, ..AccessOptions::default() };
        let guard = Guard::new(&Security::default(), &access);
        let may = |method: Method, pairs: &[(&'static str, &str)]| {
            let headers = headers(pairs);
            let proxy = [TrustedProxy::Network("10.0.0.1/32".parse().expect("valid"))];
            let place = Place::of(&headers, "10.0.0.1".parse().ok(), &proxy, false);
            guard.check_origin(&method, &headers, &place).is_ok()
        };
        let here = ("host", "127.0.0.1:7860");
        assert!(may(Method::POST, &[here]), "no browser");
        assert!(may(Method::POST, &[here, ("origin", "http://127.0.0.1:7860")]));
        assert!(may(Method::POST, &[here, ("origin", "https://studio.example")]));
        assert!(may(
            Method::POST,
            &[here, ("x-forwarded-host", "pics.example"), ("origin", "https://pics.example")]
        ));
        // An origin leaves the usual port out.
        assert!(may(
            Method::POST,
            &[here, ("x-forwarded-host", "pics.example:80"), ("origin", "http://pics.example")]
        ));
        for origin in
            ["http://evil.example", "null", "http://127.0.0.1:7861", "http://x@evil.example"]
        {
            assert!(!may(Method::POST, &[here, ("origin", origin)]), "{origin}");
            assert!(!may(Method::DELETE, &[here, ("origin", origin)]), "{origin}");
            assert!(may(Method::GET, &[here, ("origin", origin)]), "{origin}: it cannot read it");
        }
    }

    #[test]
    fn a_session_is_found_among_cookies() {
        let found = |value: &str| session(&headers(&[("cookie", value)])).map(str::to_owned);
        assert_eq!(found("a=b; llm-dit-session=00ff"), Some("00ff".to_owned()));
        assert_eq!(found("llm-dit-session=00ff; a=b"), Some("00ff".to_owned()));
        assert_eq!(found("llm-dit-sessions=00ff"), None);
        assert_eq!(found("a=llm-dit-session=00ff"), None);
    }
}
