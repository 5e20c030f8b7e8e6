//! Where clients reach this gateway, which behind a proxy is another address than its own.
//!
//! A proxy says so in `X-Forwarded-Proto`, `-Host`, `-Port` and `-Prefix`, or in `Forwarded`
//! (RFC 7239). Anybody can write these headers, so they count only from addresses of proxies that the
//! operator trusts, and only with values that an address can hold.

use std::{fmt, net::IpAddr, str::FromStr};

use http::{HeaderMap, header, uri::Authority};
use ipnet::IpNet;

/// Longest prefix that is put before a path.
const MAX_PREFIX_BYTES: usize = 256;

/// A value of `--trusted-proxy`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TrustedProxy {
    /// An address, or the addresses of a network.
    Network(IpNet),
    /// No proxy at all.
    None,
}

/// The base of every address that the gateway gives a client. Cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    encrypted: bool,
    authority: String,
    /// Empty, or a path that begins with a slash and does not end with one.
    prefix: String,
}

/// What a proxy said, as far as it can be used.
#[derive(Debug, Default)]
struct Said {
    encrypted: Option<bool>,
    host: Option<Authority>,
    port: Option<u16>,
    prefix: Option<String>,
}

impl FromStr for TrustedProxy {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "none" {
            return Ok(Self::None);
        }
        let network = text.parse().or_else(|_| text.parse::<IpAddr>().map(IpNet::from));
        network.map(Self::Network).map_err(|_| {
            "write an IP address such as 10.0.0.1, a network such as 10.0.0.0/8, or none".to_owned()
        })
    }
}

impl fmt::Display for TrustedProxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Network(network) => network.fmt(f),
            Self::None => f.write_str("none"),
        }
    }
}

impl TrustedProxy {
    fn contains(self, address: IpAddr) -> bool {
        match self {
            // A port that listens on :: gets IPv4 addresses in IPv6's form.
            Self::Network(network) => network.contains(&address.to_canonical()),
            Self::None => false,
        }
    }
}

impl Place {
    /// Where the sender of a request reaches us. `encrypted` is whether our own port is.
    pub fn of(
        headers: &HeaderMap,
        peer: Option<IpAddr>,
        trusted: &[TrustedProxy],
        encrypted: bool,
    ) -> Self {
        let is_trusted = |address: IpAddr| trusted.iter().any(|proxy| proxy.contains(address));
        let said = match peer.filter(|peer| is_trusted(*peer)) {
            Some(_) => Said::of(headers, is_trusted),
            None => Said::default(),
        };
        let own = headers.get(header::HOST).and_then(|host| authority(host.to_str().ok()?));
        let encrypted = said.encrypted.unwrap_or(encrypted);
        let (host, port) = match (&said.host, &own) {
            // A port beside the proxy's name is meant; one of our own is behind the proxy.
            (Some(host), _) => (host.host(), host.port_u16().or(said.port)),
            (None, Some(own)) => (own.host(), said.port.or(own.port_u16())),
            (None, None) => ("localhost", said.port),
        };
        let usual = if encrypted { 443 } else { 80 };
        let authority = match port.filter(|port| *port != usual) {
            Some(port) => format!("{host}:{port}"),
            None => host.to_owned(),
        };
        Self { encrypted, authority, prefix: said.prefix.unwrap_or_default() }
    }

    /// Whether clients come over HTTPS.
    pub fn is_encrypted(&self) -> bool {
        self.encrypted
    }

    /// Host and perhaps port, as a browser has them.
    pub fn authority(&self) -> &str {
        &self.authority
    }

    /// The path under which a client finds one of our paths.
    pub fn path(&self, path: &str) -> String {
        format!("{}{path}", self.prefix)
    }

    /// The address at which a client finds one of our paths.
    pub fn url(&self, path: &str) -> String {
        let scheme = if self.encrypted { "https" } else { "http" };
        format!("{scheme}://{}{}{path}", self.authority, self.prefix)
    }
}

impl Said {
    /// Of several proxies in a row each adds its own value to a header. What counts is the value of the
    /// outermost proxy that is trusted: those before it a client may have written.
    fn of(headers: &HeaderMap, is_trusted: impl Fn(IpAddr) -> bool) -> Self {
        let lists = ["proto", "host", "port", "prefix"]
            .map(|name| values(headers, &format!("x-forwarded-{name}")));
        // A proxy that writes the one passes a client's other on.
        if lists.iter().all(Vec::is_empty) {
            return Self::of_forwarded(headers, is_trusted);
        }
        let senders = values(headers, "x-forwarded-for");
        let trusted = senders.iter().rev().map(|sender| address(sender));
        let hops = trusted.take_while(|sender| sender.is_some_and(&is_trusted)).count();
        let [proto, host, port, prefix] = lists.map(|list| at(&list, hops).map(str::to_owned));
        Self {
            encrypted: proto.as_deref().and_then(is_https),
            host: host.as_deref().and_then(authority),
            port: port.and_then(|port| port.parse().ok()).filter(|port| *port != 0),
            prefix: prefix.as_deref().and_then(self::prefix),
        }
    }

    fn of_forwarded(headers: &HeaderMap, is_trusted: impl Fn(IpAddr) -> bool) -> Self {
        let elements = values(headers, "forwarded");
        let senders = elements.iter().rev().map(|element| address(parameter(element, "for")?));
        let hops = senders.take_while(|sender| sender.is_some_and(&is_trusted)).count();
        let Some(element) = at(&elements, hops) else { return Self::default() };
        Self {
            encrypted: parameter(element, "proto").and_then(is_https),
            host: parameter(element, "host").and_then(authority),
            ..Self::default()
        }
    }
}

/// The values of a header's lists, all lines of it in order.
fn values<'a>(headers: &'a HeaderMap, name: &str) -> Vec<&'a str> {
    let lines = headers.get_all(name).iter().filter_map(|line| line.to_str().ok());
    lines.flat_map(|line| line.split(',')).map(str::trim).filter(|v| !v.is_empty()).collect()
}

/// The value that is so many before the last, or the first one.
fn at<'a>(list: &[&'a str], hops: usize) -> Option<&'a str> {
    list.iter().rev().nth(hops).or(list.first()).copied()
}

/// One parameter of an element of `Forwarded`: `for=192.0.2.1;proto=https;host="a:8443"`.
fn parameter<'a>(element: &'a str, name: &str) -> Option<&'a str> {
    element.split(';').find_map(|pair| {
        let (found, value) = pair.split_once('=')?;
        found.trim().eq_ignore_ascii_case(name).then(|| value.trim().trim_matches('"'))
    })
}

/// The address of a sender, with or without its port.
fn address(text: &str) -> Option<IpAddr> {
    if let Ok(address) = text.parse::<std::net::SocketAddr>() {
        return Some(address.ip());
    }
    text.trim_matches(['[', ']']).parse().ok()
}

fn is_https(scheme: &str) -> Option<bool> {
    if scheme.eq_ignore_ascii_case("https") {
        Some(true)
    } else {
        scheme.eq_ignore_ascii_case("http").then_some(false)
    }
}

/// A host and perhaps a port, and nothing that would end or bend an address.
fn authority(text: &str) -> Option<Authority> {
    let authority: Authority = text.parse().ok()?;
    let host = authority.host();
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-._:[]".contains(c);
    (!host.is_empty() && text.chars().all(is_plain)).then_some(authority)
}

/// A path without its last slash; `None` if it is no plain path.
fn prefix(text: &str) -> Option<String> {
    let path = text.trim_end_matches('/');
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-._~/".contains(c);
    let is_fine = path.len() <= MAX_PREFIX_BYTES
        && (path.is_empty() || path.starts_with('/'))
        && path.chars().all(is_plain)
        && !path.contains("//")
        && !path.split('/').any(|part| part == ".." || part == ".");
    is_fine.then(|| path.to_owned())
}

#[cfg(test)]
mod tests {
    use http::{HeaderName, HeaderValue};

    use super::*;

    const PROXY: &str = "127.0.0.1";

    fn url(peer: &str, pairs: &[(&'static str, &str)]) -> String {
        let trusted = ["127.0.0.0/8", "::1", "10.0.0.0/8"].map(|text| text.parse().expect("valid"));
        let mut headers = HeaderMap::new();
        headers.insert("host", HeaderValue::from_static("127.0.0.1:7860"));
        for (name, value) in pairs {
            let value = HeaderValue::from_str(value).expect("a value");
            if *name == "host" {
                headers.insert(HeaderName::from_static(name), value);
            } else {
                headers.append(HeaderName::from_static(name), value);
            }
        }
        Place::of(&headers, peer.parse().ok(), &trusted, false).url("/x")
    }

    #[test]
    fn an_address_is_the_proxys_if_it_is_trusted() {
        let full = [
            ("x-forwarded-proto", "https"),
            ("x-forwarded-host", "img.example.com"),
            ("x-forwarded-prefix", "/llm/"),
        ];
        assert_eq!(url(PROXY, &full), "https://img.example.com/llm/x");
        assert_eq!(url("::ffff:127.0.0.1", &full), "https://img.example.com/llm/x");
        for stranger in ["192.0.2.1", "::2", ""] {
            assert_eq!(url(stranger, &full), "http://127.0.0.1:7860/x", "{stranger}");
        }
        for (pairs, expected) in [
            (
                &[("host", "my-nas:8080"), ("x-forwarded-proto", "https")][..],
                "https://my-nas:8080/x",
            ),
            (
                &[("x-forwarded-proto", "HTTPS"), ("x-forwarded-port", "8443")],
                "https://127.0.0.1:8443/x",
            ),
            (
                &[("x-forwarded-host", "a.example:443"), ("x-forwarded-proto", "https")],
                "https://a.example/x",
            ),
            (
                &[("x-forwarded-host", "a.example:8443"), ("x-forwarded-port", "443")],
                "http://a.example:8443/x",
            ),
            (&[("x-forwarded-host", "[::1]:81")], "http://[::1]:81/x"),
            (
                &[("forwarded", "for=192.0.2.1;proto=https;host=\"a.example:8443\"")],
                "https://a.example:8443/x",
            ),
            (&[("forwarded", "Proto=https; Host=a.example")], "https://a.example/x"),
        ] {
            assert_eq!(url(PROXY, pairs), expected, "{pairs:?}");
        }
    }

    #[test]
    fn of_several_proxies_the_outermost_trusted_one_counts() {
        let host = ("x-forwarded-host", "evil.example, a.example, inner.example");
        assert_eq!(url(PROXY, &[host]), "http://inner.example/x");
        let through = |senders: &str| url(PROXY, &[host, ("x-forwarded-for", senders)]);
        assert_eq!(through("192.0.2.1, 10.0.0.9"), "http://a.example/x");
        assert_eq!(through("192.0.2.1, 198.51.100.7"), "http://inner.example/x");
        let chain = "for=192.0.2.1;host=evil.example, for=\"[2001:db8::1]:99\";host=a.example, for=10.0.0.9;host=b.example";
        assert_eq!(url(PROXY, &[("forwarded", chain)]), "http://a.example/x");
        // What a client adds in the other header is not looked at.
        let both = [("forwarded", "host=evil.example"), ("x-forwarded-proto", "https")];
        assert_eq!(url(PROXY, &both), "https://127.0.0.1:7860/x");
    }

    #[test]
    fn what_is_no_part_of_an_address_is_left_out() {
        for (name, value) in [
            ("x-forwarded-host", "a.example/path"),
            ("x-forwarded-host", "user@a.example"),
            ("x-forwarded-host", "a.example?x"),
            ("x-forwarded-host", "a\"b"),
            ("x-forwarded-host", "a b"),
            ("x-forwarded-host", ":80"),
            ("x-forwarded-proto", "javascript"),
            ("x-forwarded-port", "0"),
            ("x-forwarded-port", "70000"),
            ("x-forwarded-prefix", "//evil.example"),
            ("x-forwarded-prefix", "llm"),
            ("x-forwarded-prefix", "/a/../b"),
            ("x-forwarded-prefix", "/a;b"),
            ("x-forwarded-prefix", "/a\"b"),
            ("forwarded", "host=\"a/b\""),
            ("forwarded", ";;=,"),
        ] {
            assert_eq!(url(PROXY, &[(name, value)]), "http://127.0.0.1:7860/x", "{name}: {value}");
        }
        let long = format!("/{}", "a".repeat(300));
        assert_eq!(url(PROXY, &[("x-forwarded-prefix", &long)]), "http://127.0.0.1:7860/x");
    }

    #[test]
    fn proxies_are_addresses_or_networks() {
        let parse = |text: &str| text.parse::<TrustedProxy>();
        assert_eq!(parse("none"), Ok(TrustedProxy::None));
        assert_eq!(parse("10.0.0.1").expect("valid").to_string(), "10.0.0.1/32");
        assert_eq!(parse("fd00::/8").expect("valid").to_string(), "fd00::/8");
        for bad in ["", "proxy.example", "10.0.0.0/33", "10.0.0", "*"] {
            assert!(parse(bad).expect_err("refused").contains("10.0.0.0/8"), "{bad}");
        }
        assert!(!TrustedProxy::None.contains(IpAddr::from([127, 0, 0, 1])));
    }
}
