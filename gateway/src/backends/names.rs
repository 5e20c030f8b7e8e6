//! A URL whose host has several addresses is several backends.

use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
};

use http::Uri;
use tokio::net::lookup_host;

/// The URLs that stand behind a URL: itself, or one for each address of its host.
///
/// A host may well have one address of each family and still be one machine, which a connection by
/// name finds out by itself. So only two addresses of the same family count.
pub(crate) fn spread(url: &str, addresses: &[SocketAddr]) -> Vec<Address> {
    let named = Address::of(url);
    let family = |v4: bool| -> BTreeSet<SocketAddr> {
        addresses.iter().copied().filter(|address| address.is_ipv4() == v4).collect()
    };
    let (four, six) = (family(true), family(false));
    let most = if six.len() > four.len() { six } else { four };
    if most.len() < 2 {
        return vec![named];
    }
    let scheme = url.split("://").next().unwrap_or("http");
    let at = |address| Address { url: format!("{scheme}://{address}"), host: named.host.clone() };
    most.into_iter().map(at).collect()
}

/// Where a backend is, and what its certificate calls it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Address {
    pub url: String,
    pub host: String,
}

impl Address {
    /// Where nothing was looked up.
    pub fn of(url: &str) -> Self {
        let uri: Option<Uri> = url.parse().ok();
        let host = uri.as_ref().and_then(Uri::host).unwrap_or_default().to_owned();
        Self { url: url.to_owned(), host }
    }
}

/// What is known of the host of a URL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum LookUp {
    /// It is an address, or no host at all.
    NoName,
    Found(Vec<SocketAddr>),
    Failed,
}

/// Resolves the addresses of a URL's host.
pub(crate) async fn look_up(url: String) -> LookUp {
    let Ok(uri) = url.parse::<Uri>() else { return LookUp::NoName };
    let (Some(_), Some(host)) = (uri.scheme(), uri.host()) else { return LookUp::NoName };
    if host.trim_matches(['[', ']']).parse::<IpAddr>().is_ok() {
        return LookUp::NoName;
    }
    let port = uri.port_u16().unwrap_or(if uri.scheme_str() == Some("https") { 443 } else { 80 });
    let found = lookup_host((host, port)).await;
    match found {
        Ok(addresses) => LookUp::Found(addresses.collect()),
        Err(error) => {
            tracing::debug!(url, %error, "failed to resolve the host name of a service");
            LookUp::Failed
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses(texts: &[&str]) -> Vec<SocketAddr> {
        texts.iter().map(|text| text.parse().expect("an address")).collect()
    }

    #[test]
    fn several_addresses_of_one_family_are_several_backends() {
        let spread = |texts: &[&str]| -> Vec<String> {
            spread("http://gpus:80", &addresses(texts)).into_iter().map(|a| a.url).collect()
        };
        assert_eq!(spread(&[]), ["http://gpus:80"]);
        assert_eq!(spread(&["127.0.0.1:80", "[::1]:80"]), ["http://gpus:80"]);
        assert_eq!(spread(&["10.0.0.2:80", "10.0.0.2:80"]), ["http://gpus:80"], "the same twice");
        let two = ["http://10.0.0.1:80", "http://10.0.0.2:80"];
        assert_eq!(spread(&["10.0.0.2:80", "[fe80::1]:80", "10.0.0.1:80"]), two);
        assert_eq!(
            spread(&["[fe80::2]:80", "[fe80::1]:80"]),
            ["http://[fe80::1]:80", "http://[fe80::2]:80"]
        );
    }

    #[test]
    fn an_address_keeps_the_name_that_its_certificate_has() {
        let found = spread("https://gpus:80", &addresses(&["10.0.0.2:80", "10.0.0.1:80"]));
        let expected =
            |n: u8| Address { url: format!("https://10.0.0.{n}:80"), host: "gpus".into() };
        assert_eq!(found, [expected(1), expected(2)]);
    }

    #[tokio::test]
    async fn only_names_are_looked_up() {
        for url in ["http://127.0.0.1:1", "http://[::1]:1", "nonsense"] {
            assert_eq!(look_up(url.to_owned()).await, LookUp::NoName, "{url}");
        }
        let LookUp::Found(local) = look_up("http://localhost:7".to_owned()).await else {
            panic!("every machine knows itself");
        };
        assert!(local.iter().all(|address| address.ip().is_loopback() && address.port() == 7));
    }
}
