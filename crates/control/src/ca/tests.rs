use std::os::unix::fs::PermissionsExt;

use x509_parser::extensions::{GeneralName, ParsedExtension};

use super::*;

fn now() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000)
}

fn open(dir: &Path) -> Authority {
    Authority::open(dir, now()).unwrap()
}

fn cart() -> spiffe::Id {
    spiffe::Id::new("cluster.local", "shop", "cart").unwrap()
}

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

#[test]
fn the_same_folder_is_the_same_authority() {
    let dir = tempfile::tempdir().unwrap();
    let ca = dir.path().join("ca");
    let first = open(&ca);
    assert_eq!(first.roots().len(), 1);
    assert_eq!(first.roots(), open(&ca).roots());
    assert!(first.roots_pem().starts_with("-----BEGIN CERTIFICATE-----"));
    let other = open(&dir.path().join("other"));
    assert_ne!(first.roots(), other.roots());
}

#[test]
fn only_the_key_is_taken_from_a_request() {
    let dir = tempfile::tempdir().unwrap();
    let authority = open(&dir.path().join("ca"));
    let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
    let mut forged = CertificateParams::default();
    forged.distinguished_name.push(DnType::CommonName, "admin");
    forged.subject_alt_names =
        vec![SanType::URI("spiffe://cluster.local/ns/heddle-system/sa/control".try_into().unwrap())];
    forged.extended_key_usages = vec![ExtendedKeyUsagePurpose::CodeSigning];
    let csr = forged.serialize_request(&key).unwrap();
    let issued = authority.sign(csr.der(), &cart(), None, now(), DAY).unwrap();
    assert_eq!((issued.not_before, issued.not_after), (now() - CLOCK_SKEW, now() + DAY));

    let [leaf] = &issued.chain[..] else { panic!("{} certificates", issued.chain.len()) };
    let (_, leaf) = X509Certificate::from_der(leaf).unwrap();
    assert_eq!(leaf.public_key().subject_public_key.data, key.public_key_raw());
    assert_eq!(leaf.subject().iter().count(), 0);
    let mut names = Vec::new();
    for extension in leaf.extensions() {
        match extension.parsed_extension() {
            ParsedExtension::SubjectAlternativeName(san) => names.extend(san.general_names.iter()),
            ParsedExtension::BasicConstraints(basic) => assert!(!basic.ca),
            ParsedExtension::ExtendedKeyUsage(usage) => {
                assert!(usage.server_auth && usage.client_auth && !usage.code_signing);
            }
            _ => {}
        }
    }
    assert!(matches!(names[..], [GeneralName::URI("spiffe://cluster.local/ns/shop/sa/cart")]), "{names:?}");
    let root = authority.roots().remove(0);
    let (_, root) = X509Certificate::from_der(&root).unwrap();
    leaf.verify_signature(Some(root.public_key())).unwrap();

    let again = authority.sign(csr.der(), &cart(), None, now(), DAY).unwrap();
    let (_, again) = X509Certificate::from_der(&again.chain[0]).unwrap();
    assert_ne!(leaf.raw_serial(), again.raw_serial(), "serial numbers are random");
}

#[test]
fn nothing_outlives_the_root() {
    let dir = tempfile::tempdir().unwrap();
    let authority = open(&dir.path().join("ca"));
    let csr = net::identity::Identity::generate().unwrap().csr().unwrap();
    let late = now() + ROOT_LIFE - DAY / 2;
    let issued = authority.sign(&csr, &cart(), None, late, DAY).unwrap();
    assert_eq!(issued.not_after, now() + ROOT_LIFE);
}

#[test]
fn bad_requests_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let authority = open(&dir.path().join("ca"));
    let good = net::identity::Identity::generate().unwrap().csr().unwrap();
    let refused = |csr: &[u8]| match authority.sign(csr, &cart(), None, now(), DAY) {
        Err(error @ CaError::Request(_)) => error.to_string(),
        other => panic!("{:?}", other.map(|i| i.not_after)),
    };
    let mut tampered = good.clone();
    let last = tampered.len() - 1;
    tampered[last] ^= 1;
    assert!(refused(&tampered).contains("not signed by the key"));
    assert!(refused(b"").contains("does not parse"));
    assert!(refused(&vec![0; CSR_BYTES + 1]).contains("bytes long"));
    assert!(refused(&[&good[..], b"x"].concat()).contains("followed by"));
    let p384 = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).unwrap();
    let csr = CertificateParams::default().serialize_request(&p384).unwrap();
    assert!(refused(csr.der()).contains("P-256"));
    for cut in 0..good.len() {
        refused(&good[..cut]);
    }
}

#[test]
fn roots_may_overlap() {
    let dir = tempfile::tempdir().unwrap();
    let (one, two) = (dir.path().join("one"), dir.path().join("two"));
    let roots = [open(&one).roots(), open(&two).roots()].concat();
    let both = [fs::read(one.join("roots.pem")).unwrap(), fs::read(two.join("roots.pem")).unwrap()].concat();
    files::write_private(&one.join("roots.pem"), &both).unwrap();
    let authority = open(&one);
    assert_eq!(authority.roots().len(), 2);
    assert!(roots.iter().all(|root| authority.roots().contains(root)));
    files::write_private(&two.join("roots.pem"), &fs::read(one.join("roots.pem")).unwrap()).unwrap();
    let csr = net::identity::Identity::generate().unwrap().csr().unwrap();
    for dir in [&one, &two] {
        open(dir).sign(&csr, &cart(), None, now(), DAY).unwrap();
    }
}

#[test]
fn a_folder_that_cannot_be_used_says_why() {
    let dir = tempfile::tempdir().unwrap();
    let ca = dir.path().join("ca");
    open(&ca);
    let error = |ca: &Path| match Authority::open(ca, now()) {
        Err(error) => error.to_string(),
        Ok(_) => panic!("it was opened"),
    };
    fs::set_permissions(&ca, fs::Permissions::from_mode(0o750)).unwrap();
    assert!(error(&ca).contains("chmod 700"));
    fs::set_permissions(&ca, fs::Permissions::from_mode(0o700)).unwrap();
    let key = fs::read(ca.join("key.pem")).unwrap();
    files::write_private(&ca.join("key.pem"), b"nonsense").unwrap();
    assert!(error(&ca).contains("is not a private key"));
    let other = KeyPair::generate().unwrap().serialize_pem();
    files::write_private(&ca.join("key.pem"), other.as_bytes()).unwrap();
    assert!(error(&ca).contains("no certificate for the key"));
    fs::remove_file(ca.join("key.pem")).unwrap();
    assert!(error(&ca).contains("key.pem"), "a lost key is not replaced silently");
    files::write_private(&ca.join("key.pem"), &key).unwrap();
    let root = fs::read(ca.join("roots.pem")).unwrap();
    files::write_private(&ca.join("roots.pem"), &root.repeat(ROOTS)).unwrap();
    assert_eq!(open(&ca).roots().len(), 1);
    files::write_private(&ca.join("roots.pem"), &root.repeat(ROOTS + 1)).unwrap();
    assert!(error(&ca).contains("17 certificates; 1 to 16"));
    files::write_private(&ca.join("roots.pem"), b"").unwrap();
    assert!(error(&ca).contains("0 certificates"));
}

#[test]
fn what_a_certificate_grants_is_read_from_it() {
    let dir = tempfile::tempdir().unwrap();
    let authority = open(&dir.path().join("ca"));
    let csr = net::identity::Identity::generate().unwrap().csr().unwrap();
    let granted =
        |grant: Option<&Grant>| Grant::of(&authority.sign(&csr, &cart(), grant, now(), DAY).unwrap().chain[0]);
    assert_eq!(granted(None), None);
    let long = format!("{}/{}", "n".repeat(63), "w".repeat(253));
    for claims in [None, Some(crate::claims::digest([("app", "cart")], []))] {
        let grant = Grant { workload: long.clone(), claims };
        assert_eq!(granted(Some(&grant)), Some(grant));
    }
}
