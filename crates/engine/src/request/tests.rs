use super::*;

/// A request's head for tests.
#[derive(Clone, Debug, Default)]
pub(crate) struct Head {
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) query: Option<String>,
    pub(crate) authority: String,
    pub(crate) headers: Vec<(String, String)>,
}

impl Head {
    /// GET of a target such as `/a?b=c` at `cart`.
    pub(crate) fn get(target: &str) -> Head {
        let (path, query) = match target.split_once('?') {
            Some((path, query)) => (path, Some(query.to_owned())),
            None => (target, None),
        };
        Head { method: "GET".into(), path: path.into(), query, authority: "cart".into(), headers: Vec::new() }
    }

    pub(crate) fn at(mut self, authority: &str) -> Head {
        self.authority = authority.into();
        self
    }

    pub(crate) fn with(mut self, name: &str, value: &str) -> Head {
        self.headers.push((name.into(), value.into()));
        self
    }
}

impl RequestHead for Head {
    fn method(&self) -> &str {
        &self.method
    }
    fn path(&self) -> &str {
        &self.path
    }
    fn query(&self) -> Option<&str> {
        self.query.as_deref()
    }
    fn authority(&self) -> &str {
        &self.authority
    }
    fn header(&self, name: &str) -> Option<&[u8]> {
        let header = self.headers.iter().find(|(n, _)| n.eq_ignore_ascii_case(name));
        header.map(|(_, value)| value.as_bytes())
    }
    fn each_value(&self, name: &str, see: &mut dyn FnMut(&[u8])) {
        let named = self.headers.iter().filter(|(n, _)| n.eq_ignore_ascii_case(name));
        named.for_each(|(_, value)| see(value.as_bytes()));
    }
}

#[test]
fn hosts_of_authorities() {
    for (authority, expected) in [
        ("cart", "cart"),
        ("cart:80", "cart"),
        ("cart.shop.:80", "cart.shop"),
        ("[::1]", "[::1]"),
        ("[::1]:8080", "[::1]"),
        ("10.0.0.1:1", "10.0.0.1"),
        ("", ""),
        (":", ""),
    ] {
        assert_eq!(host(authority), expected, "{authority}");
    }
}
