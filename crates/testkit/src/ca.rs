//! A certificate authority for tests, which also issues what no sane authority would.

use std::path::Path;
use std::time::{Duration, SystemTime};

use net::grant::Grant;
use net::identity::Identity;
use net::spiffe::Id;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, SanType,
};
use rustls_pki_types::{CertificateDer, CertificateSigningRequestDer};

/// A self-signed root that signs requests.
pub struct Ca {
    issuer: Issuer<'static, KeyPair>,
    root: CertificateDer<'static>,
}

/// What is to be written into a certificate.
#[derive(Clone, Debug)]
pub struct Leaf {
    /// The URI names; a workload has exactly one.
    pub uris: Vec<String>,
    /// From when it holds.
    pub not_before: SystemTime,
    /// Until when it holds.
    pub not_after: SystemTime,
    /// What it lets its holder register as.
    pub grant: Option<Grant>,
}

impl Leaf {
    /// What a workload of trust domain `mesh.test` has: one name, an hour.
    pub fn of(namespace: &str, service_account: &str) -> Leaf {
        Leaf::in_domain("mesh.test", namespace, service_account)
    }

    /// The same in another trust domain.
    pub fn in_domain(trust_domain: &str, namespace: &str, service_account: &str) -> Leaf {
        let id = Id::new(trust_domain, namespace, service_account).expect("tests name their workloads well");
        let now = SystemTime::now();
        let hour = Duration::from_secs(3600);
        Leaf { uris: vec![id.to_string()], not_before: now - hour, not_after: now + hour, grant: None }
    }

    /// The same, for `workload` (`namespace/name`) to register with any labels, as a control plane would sign it.
    pub fn granting(mut self, workload: &str) -> Leaf {
        self.grant = Some(Grant { workload: workload.to_owned(), claims: None });
        self
    }

    /// The same, with its time over since a minute.
    pub fn expired(mut self) -> Leaf {
        self.not_after = SystemTime::now() - Duration::from_secs(60);
        self
    }
}

impl Ca {
    /// Makes a root with a key of its own.
    pub fn new() -> Ca {
        let key = KeyPair::generate().expect("the system has randomness");
        let mut parameters = CertificateParams::default();
        parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        parameters.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        parameters.distinguished_name.push(DnType::CommonName, "test root");
        let root = parameters.self_signed(&key).expect("a root can sign itself").der().clone();
        Ca { issuer: Issuer::new(parameters, key), root }
    }

    /// The authority of a mesh, from `key.pem` and `roots.pem` in the folder where its control plane keeps them.
    pub fn open(folder: &Path) -> Ca {
        let key = std::fs::read_to_string(folder.join("key.pem")).expect("the authority has a key");
        let key = KeyPair::from_pem(&key).expect("it is a key");
        let mut roots = net::identity::read_certificates(&folder.join("roots.pem")).expect("the authority has a root");
        let root = roots.remove(0);
        Ca { issuer: Issuer::from_ca_cert_der(&root, key).expect("it is a root"), root }
    }

    /// The root certificate.
    pub fn root(&self) -> CertificateDer<'static> {
        self.root.clone()
    }

    /// Signs a request with whatever `leaf` says; returns the chain without the root.
    pub fn sign(&self, csr: &[u8], leaf: &Leaf) -> Vec<CertificateDer<'static>> {
        let csr = CertificateSigningRequestDer::from(csr);
        let mut request = CertificateSigningRequestParams::from_der(&csr).expect("the request is well-formed");
        let uri = |uri: &String| SanType::URI(uri.as_str().try_into().expect("tests use ASCII names"));
        request.params.subject_alt_names = leaf.uris.iter().map(uri).collect();
        request.params.distinguished_name = leaf.grant.as_ref().map(Grant::subject).unwrap_or_default();
        request.params.not_before = leaf.not_before.into();
        request.params.not_after = leaf.not_after.into();
        request.params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        request.params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        vec![request.signed_by(&self.issuer).expect("the authority can sign").der().clone()]
    }

    /// A new key with a certificate, trusting this root alone.
    pub fn issue(&self, leaf: &Leaf) -> Identity {
        let identity = Identity::generate().expect("the system has randomness");
        let csr = identity.csr().expect("the key can sign");
        identity.install(self.sign(&csr, leaf), vec![self.root()]).expect("the certificate is of this key");
        identity
    }

    /// [`Ca::issue`] for a workload of trust domain `mesh.test`.
    pub fn workload(&self, namespace: &str, service_account: &str) -> Identity {
        self.issue(&Leaf::of(namespace, service_account))
    }
}

impl Default for Ca {
    fn default() -> Self {
        Ca::new()
    }
}
