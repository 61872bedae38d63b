//! Evaluation of the policies.

use std::borrow::Cow;
use std::net::IpAddr;

use super::{Action, Authorizer, Caller, Decision, Network, Pattern, Policy, Rule};
use crate::RequestHead;
use crate::route::fit::digit;

impl Authorizer {
    /// Whether a rule looks at HTTP, so that opaque bytes cannot be judged on `port`.
    pub fn needs_http(&self, port: u16) -> bool {
        let usable = self.policies.iter().filter(|policy| !policy.unusable);
        usable.flat_map(|policy| &policy.rules).any(|rule| rule.http() && rule.on_port(port))
    }

    /// For a connection whose requests are not seen. Rules that look at HTTP never match an allow and always match a deny.
    pub fn connection(&self, caller: &Caller<'_>) -> Decision<'_> {
        self.decide(|rule, action| rule.fits_caller(caller) && (!rule.http() || action == Action::Deny))
    }

    /// For one request. `audit` is called with the name of each audit policy that matches, whatever the decision.
    ///
    /// A path that an application may read as another one (percent-encoded letters, `//`, `/../`, `\`) is judged as sent and
    /// as it reads: a deny needs one of the two to match, an allow both.
    pub fn request(&self, caller: &Caller<'_>, head: &impl RequestHead, mut audit: impl FnMut(&str)) -> Decision<'_> {
        let normal = normalized(head.path());
        let fits = |rule: &Rule, action: Action| rule.fits_caller(caller) && rule.fits_request(head, &normal, action);
        for policy in self.with(Action::Audit) {
            if policy.rules.iter().any(|rule| fits(rule, Action::Audit)) {
                audit(&policy.name);
            }
        }
        self.decide(fits)
    }

    /// Deny before allow; what cannot be used denies.
    fn decide(&self, fits: impl Fn(&Rule, Action) -> bool) -> Decision<'_> {
        let matches = |policy: &&Policy| policy.rules.iter().any(|rule| fits(rule, policy.action));
        let unusable = self.policies.iter().find(|policy| policy.unusable);
        if let Some(policy) = unusable.or_else(|| self.with(Action::Deny).find(matches)) {
            return Decision::Deny(Some(&policy.name));
        }
        let mut allows = self.with(Action::Allow).peekable();
        if allows.peek().is_none() || allows.any(|policy| matches(&policy)) {
            Decision::Allow
        } else {
            Decision::Deny(None)
        }
    }

    fn with(&self, action: Action) -> impl Iterator<Item = &Policy> {
        self.policies.iter().filter(move |policy| policy.action == action)
    }
}

impl Rule {
    fn http(&self) -> bool {
        !(self.methods.is_empty() && self.paths.is_empty() && self.headers.is_empty())
    }

    fn on_port(&self, port: u16) -> bool {
        self.ports.is_empty() || self.ports.contains(&port)
    }

    fn fits_caller(&self, caller: &Caller<'_>) -> bool {
        let identity = |pattern: &Pattern| caller.identity.is_some_and(|id| pattern.matches(id));
        let namespace = || caller.identity.and_then(namespace);
        self.on_port(caller.port)
            && (self.identities.is_empty() || self.identities.iter().any(identity))
            && (self.namespaces.is_empty()
                || namespace().is_some_and(|ns| self.namespaces.iter().any(|known| **known == *ns)))
            && (self.networks.is_empty() || self.networks.iter().any(|network| network.contains(caller.address)))
    }

    fn fits_request(&self, head: &impl RequestHead, normal: &str, action: Action) -> bool {
        let fits = |path: &str| self.paths.iter().any(|pattern| pattern.matches(path));
        let sent = head.path();
        let path = match action {
            _ if self.paths.is_empty() => true,
            Action::Allow => fits(sent) && fits(normal),
            Action::Deny | Action::Audit => fits(sent) || fits(normal),
        };
        path && (self.methods.is_empty() || self.methods.iter().any(|m| **m == *head.method()))
            && self.headers.iter().all(|header| header.fits_headers(head, action != Action::Allow))
    }
}

impl Network {
    /// Whether `address` is in it. An IPv4 address is the same written as IPv6 (`::ffff:10.0.0.1`). More bits than an
    /// address has mean the whole address.
    pub fn contains(&self, address: IpAddr) -> bool {
        match (self.address, address.to_canonical()) {
            (IpAddr::V4(network), IpAddr::V4(address)) => {
                let mask = u32::MAX.checked_shl(32 - u32::from(self.bits.min(32))).unwrap_or(0);
                (network.to_bits() ^ address.to_bits()) & mask == 0
            }
            (IpAddr::V6(network), IpAddr::V6(address)) => {
                let mask = u128::MAX.checked_shl(128 - u32::from(self.bits.min(128))).unwrap_or(0);
                (network.to_bits() ^ address.to_bits()) & mask == 0
            }
            _ => false,
        }
    }
}

/// The namespace of `spiffe://<trust domain>/ns/<namespace>/sa/<service account>`; `None` for any other form.
pub fn namespace(identity: &str) -> Option<&str> {
    let mut parts = identity.strip_prefix("spiffe://")?.split('/');
    let (domain, ns, namespace) = (parts.next()?, parts.next()?, parts.next()?);
    let (sa, account, end) = (parts.next()?, parts.next()?, parts.next());
    let named = !domain.is_empty() && !namespace.is_empty() && !account.is_empty();
    (ns == "ns" && sa == "sa" && end.is_none() && named).then_some(namespace)
}

/// The path as a lenient application reads it: percent-decoded, backslashes as slashes, empty and dot elements resolved
/// (RFC 3986, 5.2.4). Borrowed, without a copy, where that is the path as sent. Bytes that are not UTF-8 become
/// replacement characters.
pub(super) fn normalized(path: &str) -> Cow<'_, str> {
    let odd = path.contains(['%', '\\']) || path.contains("//") || path.contains("/.");
    if !odd {
        return Cow::Borrowed(path);
    }
    let mut bytes = Vec::with_capacity(path.len());
    let mut rest = path.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        (rest, _) = match (byte, after) {
            (b'%', [high, low, after @ ..]) => match (digit(*high), digit(*low)) {
                (Some(high), Some(low)) => (after, bytes.push(high << 4 | low)),
                _ => (&rest[1..], bytes.push(byte)),
            },
            _ => (after, bytes.push(byte)),
        };
    }
    let decoded = String::from_utf8_lossy(&bytes);
    let mut elements: Vec<&str> = Vec::new();
    let last = decoded.rsplit(['/', '\\']).next().unwrap_or_default();
    for element in decoded.split(['/', '\\']) {
        match element {
            "" | "." => {}
            ".." => drop(elements.pop()),
            element => elements.push(element),
        }
    }
    let slash = if matches!(last, "" | "." | "..") && !elements.is_empty() { "/" } else { "" };
    Cow::Owned(["/", &elements.join("/"), slash].concat())
}
