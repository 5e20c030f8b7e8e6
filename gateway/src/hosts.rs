//! Host names that a gateway without keys accepts.
//!
//! A page can have its own name lead to 127.0.0.1 once it is loaded (DNS rebinding); its visitor's
//! browser then takes the gateway for a part of the page, and lets it read every answer. What the page
//! cannot change is the name, which the browser sends as `Host`. So only addresses count, names that
//! cannot be registered, and those that the operator gives.

use std::net::Ipv4Addr;

use axum::http::{HeaderValue, uri::Authority};

/// Ends of names that cannot be registered: RFC 6761, 6762 and 8375, and ICANN's `.internal`.
const PRIVATE: [&str; 4] = ["localhost", "local", "home.arpa", "internal"];

/// The name in a `Host`, in lower case, if a gateway must not answer to it; `allowed` are names as
/// [`name`] makes them.
pub(crate) fn foreign(host: &HeaderValue, allowed: &[String]) -> Option<String> {
    let text = String::from_utf8_lossy(host.as_bytes());
    let Some(name) = name(&text) else { return Some(text.into_owned()) };
    let is_address = name.starts_with('[') || name.parse::<Ipv4Addr>().is_ok();
    let under = |end: &str| name.strip_suffix(end).is_some_and(|rest| rest.ends_with('.'));
    let is_ours = is_address || !name.contains('.') || PRIVATE.into_iter().any(under);
    (!is_ours && !allowed.contains(&name)).then_some(name)
}

/// Of a host and perhaps a port.
pub(crate) fn name(host: &str) -> Option<String> {
    let authority: Authority = host.parse().ok()?;
    let name = authority.host().trim_end_matches('.').to_ascii_lowercase();
    (!name.is_empty() && !host.contains('@')).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_anybody_can_register_are_foreign() {
        let allowed = ["pics.example.org".to_owned()];
        let foreign = |host: &str| foreign(&host.parse().expect("a value"), &allowed);
        for host in [
            "127.0.0.1:7860",
            "192.168.1.7",
            "[::1]:7860",
            "localhost:7860",
            "LOCALHOST",
            "page.localhost",
            "gpu",
            "gpu.local:7860",
            "gpu.local.",
            "gpu.home.arpa",
            "gpu.internal",
            "pics.example.org:7860",
            "Pics.Example.org.",
        ] {
            assert_eq!(foreign(host), None, "{host}");
        }
        for (host, name) in [
            ("evil.example:7860", "evil.example"),
            ("127.0.0.1.evil.example", "127.0.0.1.evil.example"),
            ("localhost.evil.example", "localhost.evil.example"),
            ("more.pics.example.org", "more.pics.example.org"),
            ("evillocal.example", "evillocal.example"),
            ("x@127.0.0.1", "x@127.0.0.1"),
            ("a b", "a b"),
        ] {
            assert_eq!(foreign(host).as_deref(), Some(name), "{host}");
        }
    }
}
