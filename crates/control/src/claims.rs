//! What an instance claims to be when it registers: its labels and the services that it names itself. A token is made for one set of
//! claims, of which a certificate carries the digest, so that no instance becomes an endpoint of a service that nobody put it into.

use std::collections::{BTreeMap, BTreeSet};

use proto::mesh;
use sha2::{Digest, Sha256};

/// Letters of a digest.
const LENGTH: usize = 64;

/// The digest of claims, as lower-case hexadecimal SHA-256: equal for equal sets, whatever their order. Services are
/// `namespace/name`.
pub fn digest<'a>(
    labels: impl IntoIterator<Item = (&'a str, &'a str)>,
    services: impl IntoIterator<Item = &'a str>,
) -> String {
    let labels: BTreeMap<&str, &str> = labels.into_iter().collect();
    let services: BTreeSet<&str> = services.into_iter().collect();
    let mut hash = Sha256::new();
    // How many labels there are comes first, and each text's length before it, so that no two claims are the same bytes.
    hash.update((labels.len() as u64).to_be_bytes());
    let texts = labels.iter().flat_map(|(name, value)| [name, value]).chain(&services);
    for text in texts {
        hash.update((text.len() as u64).to_be_bytes());
        hash.update(text);
    }
    hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Whether `text` can be a digest.
pub(crate) fn is_digest(text: &str) -> bool {
    text.len() == LENGTH && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// Whether a registration claims no more than a certificate of the digest `granted` may. Who claims nothing is no endpoint.
pub(crate) fn allowed(registration: &mesh::Registration, granted: &str) -> bool {
    let mesh::Registration { labels, services, .. } = registration;
    let labels_of = || labels.iter().map(|label| (&*label.name, &*label.value));
    (labels.is_empty() && services.is_empty()) || digest(labels_of(), services.iter().map(String::as_str)) == granted
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    type Claims = (BTreeMap<String, String>, BTreeSet<String>);

    fn of((labels, services): &Claims) -> String {
        digest(labels.iter().map(|(n, v)| (&**n, &**v)), services.iter().map(String::as_str))
    }

    fn claims() -> impl Strategy<Value = Claims> {
        let text = || "[a-c/]{0,3}|labels|services";
        (prop::collection::btree_map(text(), text(), 0..4), prop::collection::btree_set(text(), 0..4))
    }

    proptest! {
        #[test]
        fn only_equal_claims_have_the_same_digest(a in claims(), b in claims()) {
            prop_assert_eq!(of(&a) == of(&b), a == b);
            prop_assert!(is_digest(&of(&a)));
        }
    }

    /// A label is no service, whatever they are called.
    #[test]
    fn labels_and_services_are_told_apart_by_their_number() {
        assert_ne!(digest([], ["labels", "services"]), digest([("services", "labels")], []));
        assert_ne!(digest([], ["a", "b"]), digest([("a", "b")], []));
    }

    #[test]
    fn the_order_does_not_matter_and_who_claims_nothing_is_allowed() {
        let (one, two) = (("app", "cart"), ("zone", "a"));
        assert_eq!(digest([one, two], ["shop/a", "shop/b"]), digest([two, one], ["shop/b", "shop/a", "shop/a"]));
        let label = mesh::Label { name: "app".into(), value: "cart".into() };
        let registration = mesh::Registration { labels: vec![label], ..Default::default() };
        assert!(allowed(&registration, &digest([one], [])));
        assert!(!allowed(&registration, &digest([one], ["shop/cart"])));
        assert!(!allowed(&registration, &digest([], [])));
        assert!(allowed(&mesh::Registration::default(), &digest([one], [])));
    }
}
