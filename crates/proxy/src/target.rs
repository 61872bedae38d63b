//! Where something is meant to go, before anything is known of it.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

/// A destination as its caller names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Target {
    /// A host in lower case without a final dot, or an IP address without brackets.
    pub(crate) host: Box<str>,
    /// The port.
    pub(crate) port: u16,
}

impl Target {
    /// From `host`, `host:port`, `address:port` or `[v6]:port`, with `default` where no port is given. `None` when it is none
    /// of these: user information, an empty host, port 0 and bytes that no host has are refused (RFC 3986, 3.2).
    pub(crate) fn parse(authority: &str, default: u16) -> Option<Target> {
        let (host, port) = split(authority)?;
        let port = match port {
            None | Some("") => default,
            Some(text) if text.bytes().all(|b| b.is_ascii_digit()) => text.parse().ok().filter(|p| *p != 0)?,
            Some(_) => return None,
        };
        let host = host.strip_suffix('.').unwrap_or(host);
        let valid = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_' | b':' | b'~' | b'%');
        if host.is_empty() || host.len() > 255 || !host.bytes().all(valid) {
            return None;
        }
        Some(Target { host: host.to_ascii_lowercase().into(), port })
    }

    /// The address, where the host is one.
    pub(crate) fn address(&self) -> Option<SocketAddr> {
        self.host.parse::<IpAddr>().ok().map(|ip| SocketAddr::new(ip, self.port))
    }

    /// Whether the host is an address.
    pub(crate) fn is_address(&self) -> bool {
        // A host name that ends in a digit is none (the WHATWG's rule and that of RFC 1123's successors in practice), so the
        // usual name costs no parsing.
        self.host.as_bytes().last().is_some_and(u8::is_ascii_hexdigit) && self.address().is_some()
    }

    /// The name that [`crate::Discover`] knows it by: the host, or `address:port`.
    pub(crate) fn name(&self) -> Box<str> {
        match self.address() {
            Some(address) => address.to_string().into(),
            None => self.host.clone(),
        }
    }
}

impl From<SocketAddr> for Target {
    fn from(address: SocketAddr) -> Target {
        Target { host: address.ip().to_string().into(), port: address.port() }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.address() {
            Some(address) => address.fmt(f),
            None => write!(f, "{}:{}", self.host, self.port),
        }
    }
}

/// Host and port of an authority, brackets removed. A bare IPv6 address is refused: its port could not be told.
fn split(authority: &str) -> Option<(&str, Option<&str>)> {
    if let Some(rest) = authority.strip_prefix('[') {
        let (host, rest) = rest.split_once(']')?;
        host.parse::<std::net::Ipv6Addr>().ok()?;
        return match rest {
            "" => Some((host, None)),
            _ => rest.strip_prefix(':').map(|port| (host, Some(port))),
        };
    }
    match authority.split_once(':') {
        Some((_, port)) if port.contains(':') => None,
        Some((host, port)) => Some((host, Some(port))),
        None => Some((authority, None)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn authorities_are_read_as_rfc_3986_has_them() {
        let name = |text| Target::parse(text, 80).map(|t| t.to_string());
        assert_eq!(name("Cart.Shop"), Some("cart.shop:80".into()));
        assert_eq!(name("cart.shop.:8080"), Some("cart.shop:8080".into()));
        assert_eq!(name("cart:"), Some("cart:80".into()));
        assert_eq!(name("10.0.0.1:99"), Some("10.0.0.1:99".into()));
        assert_eq!(name("[::1]:99"), Some("[::1]:99".into()));
        assert_eq!(name("[::1]"), Some("[::1]:80".into()));
        for bad in ["", ":80", "a:b", "a:0", "a:65536", "a:+1", "::1", "u@h", "a b", "[::1", "[x]:1", "a/b", "[::1]x"] {
            assert_eq!(name(bad), None, "{bad}");
        }
        assert_eq!(&*Target::parse("10.0.0.1", 80).unwrap().name(), "10.0.0.1:80");
        assert_eq!(&*Target::parse("cart:8080", 80).unwrap().name(), "cart");
    }
}
