//! SPIFFE IDs in the one form that the mesh uses: `spiffe://<trust domain>/ns/<namespace>/sa/<service account>`.
//!
//! The limits are those of the SPIFFE ID specification (2,048 bytes, trust domain of at most 255) and of Kubernetes names
//! (namespace: a DNS label; service account: a DNS subdomain).

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// Longest SPIFFE ID, bytes (SPIFFE-ID section 2.3).
pub const MAX_ID: usize = 2048;
/// Longest trust domain, bytes (SPIFFE-ID section 2.1).
pub const MAX_TRUST_DOMAIN: usize = 255;
/// Longest namespace, bytes (RFC 1123 label).
pub const MAX_NAMESPACE: usize = 63;
/// Longest service account, bytes (RFC 1123 subdomain).
pub const MAX_SERVICE_ACCOUNT: usize = 253;

const SCHEME: &str = "spiffe://";
const NAMESPACE: &str = "/ns/";
const SERVICE_ACCOUNT: &str = "/sa/";

/// A workload's identity. Cheap to clone.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Id {
    text: Arc<str>,
    /// Where the trust domain ends.
    domain_end: u16,
    /// Where the namespace ends.
    namespace_end: u16,
}

impl Id {
    /// Builds an identity from its parts.
    ///
    /// # Errors
    /// A part is empty, too long, or holds a character that it may not.
    pub fn new(trust_domain: &str, namespace: &str, service_account: &str) -> Result<Id, Invalid> {
        part("trust domain", trust_domain, MAX_TRUST_DOMAIN, b"-._")?;
        part("namespace", namespace, MAX_NAMESPACE, b"-")?;
        part("service account", service_account, MAX_SERVICE_ACCOUNT, b"-.")?;
        let text = format!("{SCHEME}{trust_domain}{NAMESPACE}{namespace}{SERVICE_ACCOUNT}{service_account}");
        let domain_end = SCHEME.len() + trust_domain.len();
        let namespace_end = domain_end + NAMESPACE.len() + namespace.len();
        let fits = |end: usize| u16::try_from(end).expect("the parts are bounded far below 65,536 bytes");
        Ok(Id { domain_end: fits(domain_end), namespace_end: fits(namespace_end), text: text.into() })
    }

    /// The whole ID.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Who issues and vouches for it.
    pub fn trust_domain(&self) -> &str {
        &self.text[SCHEME.len()..usize::from(self.domain_end)]
    }

    /// The workload's namespace.
    pub fn namespace(&self) -> &str {
        &self.text[usize::from(self.domain_end) + NAMESPACE.len()..usize::from(self.namespace_end)]
    }

    /// The workload's service account.
    pub fn service_account(&self) -> &str {
        &self.text[usize::from(self.namespace_end) + SERVICE_ACCOUNT.len()..]
    }
}

impl FromStr for Id {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Id, Invalid> {
        if text.len() > MAX_ID {
            return Err(Invalid("it is longer than 2,048 bytes".into()));
        }
        let shape = || {
            Invalid(format!("{text:?} is not of the form spiffe://<trust domain>/ns/<namespace>/sa/<service account>"))
        };
        let rest = text.strip_prefix(SCHEME).ok_or_else(shape)?;
        let (trust_domain, rest) = rest.split_once(NAMESPACE).ok_or_else(shape)?;
        let (namespace, service_account) = rest.split_once(SERVICE_ACCOUNT).ok_or_else(shape)?;
        Id::new(trust_domain, namespace, service_account)
    }
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// Why a text is no SPIFFE ID of the mesh.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a SPIFFE ID that the mesh uses: {0}")]
pub struct Invalid(String);

/// Lower-case letters, digits and `also`, beginning and ending with a letter or digit.
fn part(what: &str, text: &str, longest: usize, also: &[u8]) -> Result<(), Invalid> {
    let word = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let bytes = text.as_bytes();
    match (bytes.first(), bytes.last()) {
        (Some(first), Some(last)) if word(first) && word(last) => {}
        _ => {
            return Err(Invalid(format!("the {what} {text:?} must begin and end with a lower-case letter or a digit")));
        }
    }
    if bytes.len() > longest {
        return Err(Invalid(format!("the {what} is longer than {longest} bytes")));
    }
    if let Some(bad) = bytes.iter().find(|byte| !word(byte) && !also.contains(byte)) {
        return Err(Invalid(format!("the {what} {text:?} holds {:?}", char::from(*bad))));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn reads_its_parts() {
        let id: Id = "spiffe://mesh.local/ns/shop/sa/cart.v1".parse().unwrap();
        assert_eq!((id.trust_domain(), id.namespace(), id.service_account()), ("mesh.local", "shop", "cart.v1"));
        assert_eq!(id.to_string(), "spiffe://mesh.local/ns/shop/sa/cart.v1");
    }

    #[test]
    fn refuses_everything_else() {
        let long_namespace = format!("spiffe://m/ns/{}/sa/x", "n".repeat(64));
        let long_domain = format!("spiffe://{}/ns/n/sa/x", "d".repeat(256));
        let long_account = format!("spiffe://m/ns/n/sa/{}", "a".repeat(254));
        let very_long = format!("spiffe://m/ns/n/sa/{}", "a".repeat(2048));
        for text in [
            "",
            "spiffe://",
            "https://m/ns/n/sa/x",
            "SPIFFE://m/ns/n/sa/x",
            "spiffe:///ns/n/sa/x",
            "spiffe://m/ns//sa/x",
            "spiffe://m/ns/n/sa/",
            "spiffe://m/ns/n/sa/x/",
            "spiffe://m/ns/n/sa/x/sa/y",
            "spiffe://m/ns/n/sa/x?q",
            "spiffe://m/ns/n/sa/x#f",
            "spiffe://m:1/ns/n/sa/x",
            "spiffe://u@m/ns/n/sa/x",
            "spiffe://m/ns/n.o/sa/x",
            "spiffe://M/ns/n/sa/x",
            "spiffe://m/ns/n/sa/é",
            "spiffe://m/ns/n/sa/%41",
            "spiffe://m/ns/n/sa/..",
            "spiffe://m/ns/n/sa/x\0",
            "spiffe://m/workload",
            &long_namespace,
            &long_domain,
            &long_account,
            &very_long,
        ] {
            assert!(text.parse::<Id>().is_err(), "{text:?} was taken");
        }
    }

    proptest! {
        #[test]
        fn round_trips(
            domain in "[a-z0-9]([a-z0-9._-]{0,40}[a-z0-9])?",
            namespace in "[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?",
            account in "[a-z0-9]([a-z0-9.-]{0,80}[a-z0-9])?",
        ) {
            let id = Id::new(&domain, &namespace, &account).unwrap();
            let again: Id = id.as_str().parse().unwrap();
            prop_assert_eq!(&again, &id);
            prop_assert_eq!((again.trust_domain(), again.namespace(), again.service_account()), (&*domain, &*namespace, &*account));
        }

        #[test]
        fn any_text_is_refused_or_kept_as_it_is(text in "(spiffe://)?.{0,60}") {
            if let Ok(id) = text.parse::<Id>() {
                prop_assert_eq!(id.as_str(), text);
            }
        }
    }
}
