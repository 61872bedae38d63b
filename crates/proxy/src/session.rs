//! What keeps the requests of one session at one instance.

use std::borrow::Cow;
use std::net::IpAddr;

use engine::RequestHead;
use engine::balance::hash;
use engine::policy::{BalancePolicy, HashKey};

/// Longest value of an affinity cookie that is looked at: `namespace/name` of a workload.
const COOKIE_BYTES: usize = 320;

/// What of a request says which session it belongs to; `None`: nothing does. `source` is the client's address.
pub fn key<'a>(key: &HashKey, head: &'a impl RequestHead, source: IpAddr) -> Option<Cow<'a, [u8]>> {
    match key {
        HashKey::Header(name) => head.header(name).map(Cow::Borrowed),
        HashKey::Cookie { name, .. } => cookie(name, head).map(Cow::Owned),
        HashKey::Source => Some(Cow::Owned(address(source))),
    }
}

/// The hash of an opaque connection, where its client's address is what counts.
pub(crate) fn of_source(policy: &BalancePolicy, source: IpAddr) -> Option<u64> {
    matches!(policy.hash, Some(HashKey::Source)).then(|| hash(&address(source)))
}

fn address(source: IpAddr) -> Vec<u8> {
    match source.to_canonical() {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

/// The instance that a request's session is at, as its cookie says; only where the mesh sets that cookie.
pub fn instance(key: &HashKey, head: &impl RequestHead) -> Option<String> {
    let HashKey::Cookie { name, max_age: Some(_) } = key else { return None };
    String::from_utf8(cookie(name, head)?).ok()
}

/// The `set-cookie` that binds a session to `workload`; `None` where the mesh sets none.
pub(crate) fn binding(key: &HashKey, workload: &str) -> Option<Box<str>> {
    let HashKey::Cookie { name, max_age: Some(max_age) } = key else { return None };
    let seconds = max_age.0 / 1_000_000_000;
    let life = if seconds > 0 { format!("; Max-Age={seconds}") } else { String::new() };
    Some(format!("{name}={workload}; Path=/; HttpOnly; SameSite=Lax{life}").into())
}

/// The value of the first cookie `name` (RFC 6265, 4.2.1).
fn cookie(name: &str, head: &impl RequestHead) -> Option<Vec<u8>> {
    let mut found = None;
    head.each_value("cookie", &mut |value| {
        let pairs = value.split(|byte| *byte == b';').map(<[u8]>::trim_ascii);
        let mut named = pairs.filter_map(|pair| pair.strip_prefix(name.as_bytes())?.strip_prefix(b"="));
        if found.is_none() {
            found = named.next().filter(|value| value.len() <= COOKIE_BYTES).map(<[u8]>::to_vec);
        }
    });
    found
}

#[cfg(test)]
mod tests {
    use engine::Nanos;

    use super::*;

    struct Head<'a>(Vec<(&'a str, &'a str)>);

    impl RequestHead for Head<'_> {
        fn method(&self) -> &str {
            "GET"
        }

        fn path(&self) -> &str {
            "/"
        }

        fn query(&self) -> Option<&str> {
            None
        }

        fn authority(&self) -> &str {
            "a"
        }

        fn header(&self, name: &str) -> Option<&[u8]> {
            self.0.iter().find(|(known, _)| *known == name).map(|(_, value)| value.as_bytes())
        }

        fn each_value(&self, name: &str, see: &mut dyn FnMut(&[u8])) {
            self.0.iter().filter(|(known, _)| *known == name).for_each(|(_, value)| see(value.as_bytes()));
        }
    }

    fn set(max_age: Option<u64>) -> HashKey {
        HashKey::Cookie { name: "sid".into(), max_age: max_age.map(|s| Nanos(s * 1_000_000_000)) }
    }

    #[test]
    fn keys_are_found_where_they_are() {
        let source = "127.0.0.9".parse().unwrap();
        let head = Head(vec![("x-user", "a"), ("cookie", "other=1; sids=2"), ("cookie", "a=b;  sid=x=y ; sid=z")]);
        assert_eq!(key(&HashKey::Header("x-user".into()), &head, source).as_deref(), Some(&b"a"[..]));
        assert_eq!(key(&HashKey::Header("x-other".into()), &head, source), None);
        assert_eq!(key(&set(None), &head, source).as_deref(), Some(&b"x=y"[..]));
        assert_eq!(key(&set(None), &Head(vec![("cookie", "sid")]), source), None);
        for (length, found) in [(COOKIE_BYTES, true), (COOKIE_BYTES + 1, false)] {
            let cookie = format!("sid={}", "x".repeat(length));
            assert_eq!(key(&set(None), &Head(vec![("cookie", &cookie)]), source).is_some(), found, "{length} bytes");
        }
        let mapped = "::ffff:127.0.0.9".parse().unwrap();
        assert_eq!(key(&HashKey::Source, &head, source), key(&HashKey::Source, &head, mapped));
    }

    #[test]
    fn only_a_cookie_of_the_meshs_own_names_an_instance() {
        let head = Head(vec![("cookie", "sid=shop/cart-0")]);
        assert_eq!(instance(&set(Some(60)), &head).as_deref(), Some("shop/cart-0"));
        assert_eq!(instance(&set(None), &head), None);
        let text = binding(&set(Some(60)), "shop/cart-0").unwrap();
        assert_eq!(&*text, "sid=shop/cart-0; Path=/; HttpOnly; SameSite=Lax; Max-Age=60");
        assert!(!binding(&set(Some(0)), "shop/cart-0").unwrap().contains("Max-Age"));
        assert_eq!(binding(&set(None), "shop/cart-0"), None);
    }
}
