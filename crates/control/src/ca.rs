//! The embedded certificate authority.
//!
//! Its folder (0700) holds `key.pem` (0600), the key that signs, and `roots.pem` (0600), every certificate that the mesh
//! trusts. The signer is the certificate in `roots.pem` that belongs to `key.pem`; others are there so that roots can be
//! replaced with overlap: add the new certificate, wait until every proxy holds it, change the key, and take the old
//! certificate out when the last one that it signed has expired.

use std::fs;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use net::grant::Grant;
use net::{files, spiffe};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType, SerialNumber, SubjectPublicKeyInfo,
};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use time::OffsetDateTime;
use x509_parser::prelude::{FromDer, X509Certificate, X509CertificationRequest};

use crate::random;

/// A root lives long enough that nobody has to replace it on a laptop.
const ROOT_LIFE: Duration = Duration::from_secs(10 * 365 * 24 * 60 * 60);

/// Certificates begin this much in the past, so that a peer whose clock is slow accepts them.
pub(crate) const CLOCK_SKEW: Duration = Duration::from_secs(60);

/// A certificate request is a key, a signature and a little; more is not one.
const CSR_BYTES: usize = 8 * 1024;

/// A mesh has one root, two while they are replaced; a trust bundle beyond this is a mistake.
const ROOTS: usize = 16;

/// Largest file that is read: the key, or [`ROOTS`] certificates.
const FILE_BYTES: usize = 256 * 1024;

/// `secp256r1` as an object identifier (RFC 5480, section 2.1.1.1).
const P256: &str = "1.2.840.10045.3.1.7";

/// The authority, its key in memory.
pub(crate) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    roots: Vec<CertificateDer<'static>>,
    not_after: SystemTime,
}

/// A certificate that was just signed.
#[derive(Clone, Debug)]
pub(crate) struct Issued {
    /// DER, leaf first. The authority's own certificate is not in it: peers hold it.
    pub(crate) chain: Vec<Vec<u8>>,
    pub(crate) not_before: SystemTime,
    pub(crate) not_after: SystemTime,
}

/// Why the authority cannot be used or does not sign.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CaError {
    #[error("others may look into {path} (mode {mode:04o}), where the mesh's keys are; run: chmod 700 {path}")]
    TooWide { path: PathBuf, mode: u32 },
    #[error("cannot {what} the folder {path}: {error}")]
    Folder { what: &'static str, path: PathBuf, error: std::io::Error },
    #[error(transparent)]
    File(#[from] files::Error),
    #[error(
        "{path} {problem}; restore it from a copy, or remove its folder for a new authority (every proxy must then start anew)"
    )]
    Broken { path: PathBuf, problem: String },
    #[error("the certificate request {0}")]
    Request(String),
    #[error("signing failed: {0}")]
    Sign(#[from] rcgen::Error),
}

impl Authority {
    /// Reads the authority in `dir`, or makes one there when there is none.
    pub(crate) fn open(dir: &Path, now: SystemTime) -> Result<Authority, CaError> {
        private_dir(dir)?;
        let (key, roots) = (dir.join("key.pem"), dir.join("roots.pem"));
        if !key.exists() && !roots.exists() {
            create(&key, &roots, now)?;
        }
        load(&key, &roots)
    }

    /// The certificates that the mesh trusts, DER, sorted.
    pub(crate) fn roots(&self) -> Vec<Vec<u8>> {
        self.roots.iter().map(|c| c.to_vec()).collect()
    }

    /// The same as PEM, for clients.
    pub(crate) fn roots_pem(&self) -> String {
        net::identity::encode(&self.roots)
    }

    /// Signs `csr` (PKCS #10, DER) for the SPIFFE ID `identity`, whose holder may register as `grant` says. Only the key is taken from the request, and its signature
    /// must prove that the asker holds it; whatever names it asks for are ignored.
    pub(crate) fn sign(
        &self,
        csr: &[u8],
        identity: &spiffe::Id,
        grant: Option<&Grant>,
        now: SystemTime,
        life: Duration,
    ) -> Result<Issued, CaError> {
        if csr.len() > CSR_BYTES {
            return Err(CaError::Request(format!("is {} bytes long; {CSR_BYTES} are allowed", csr.len())));
        }
        let (rest, request) =
            X509CertificationRequest::from_der(csr).map_err(|e| CaError::Request(format!("does not parse: {e}")))?;
        if !rest.is_empty() {
            return Err(CaError::Request("is followed by other bytes".to_owned()));
        }
        request
            .verify_signature()
            .map_err(|_| CaError::Request("is not signed by the key that it names".to_owned()))?;
        let spki = &request.certification_request_info.subject_pki;
        let curve = spki.algorithm.parameters.as_ref().and_then(|p| p.as_oid().ok()).map(|o| o.to_id_string());
        if curve.as_deref() != Some(P256) {
            return Err(CaError::Request("must be for an ECDSA P-256 key".to_owned()));
        }
        let key = SubjectPublicKeyInfo::from_der(spki.raw)?;

        let not_before = now - CLOCK_SKEW;
        let not_after = (now + life).min(self.not_after);
        let mut params = CertificateParams::default();
        params.distinguished_name = grant.map_or_else(DistinguishedName::new, Grant::subject);
        params.subject_alt_names = vec![SanType::URI(identity.as_str().try_into().expect("SPIFFE IDs are ASCII"))];
        params.not_before = OffsetDateTime::from(not_before);
        params.not_after = OffsetDateTime::from(not_after);
        params.serial_number = Some(serial());
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.use_authority_key_identifier_extension = true;
        let leaf = params.signed_by(&key, &self.issuer)?;
        Ok(Issued { chain: vec![leaf.der().to_vec()], not_before, not_after })
    }
}

/// 127 random bits: RFC 5280 wants serial numbers positive and at most 20 bytes, the CA/Browser Forum at least 64 random bits.
fn serial() -> SerialNumber {
    let mut bytes: [u8; 16] = random::bytes();
    bytes[0] = bytes[0] & 0x7f | 0x40;
    SerialNumber::from_slice(&bytes)
}

fn create(key: &Path, roots: &Path, now: SystemTime) -> Result<(), CaError> {
    let pair = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)?;
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    let suffix: [u8; 4] = random::bytes();
    params.distinguished_name.push(DnType::CommonName, format!("Heddle root {:08x}", u32::from_be_bytes(suffix)));
    params.not_before = OffsetDateTime::from(now - CLOCK_SKEW);
    params.not_after = OffsetDateTime::from(now + ROOT_LIFE);
    params.serial_number = Some(serial());
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let root = params.self_signed(&pair)?;
    // The certificate is written first: a key without one would look like an authority that lost its certificate.
    files::write_private(roots, root.pem().as_bytes())?;
    files::write_private(key, pair.serialize_pem().as_bytes())?;
    Ok(())
}

fn load(key: &Path, roots: &Path) -> Result<Authority, CaError> {
    let broken = |path: &Path, problem: String| CaError::Broken { path: path.to_owned(), problem };
    let key_pem = files::read_private(key, FILE_BYTES)?;
    let pair = std::str::from_utf8(&key_pem)
        .map_err(|e| e.to_string())
        .and_then(|pem| KeyPair::from_pem(pem).map_err(|e| e.to_string()))
        .map_err(|e| broken(key, format!("is not a private key ({e})")))?;
    let roots_pem = files::read_private(roots, FILE_BYTES)?;
    let mut list = CertificateDer::pem_slice_iter(&roots_pem)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|e| broken(roots, format!("is not a list of certificates ({e})")))?;
    if list.is_empty() || list.len() > ROOTS {
        return Err(broken(roots, format!("holds {} certificates; 1 to {ROOTS} are allowed", list.len())));
    }
    list.sort_by(|a, b| a.as_ref().cmp(b.as_ref()));
    list.dedup();
    let mut signer = None;
    for certificate in &list {
        let (_, parsed) =
            X509Certificate::from_der(certificate).map_err(|e| broken(roots, format!("does not parse ({e})")))?;
        if *parsed.public_key().subject_public_key.data == *pair.public_key_raw() {
            signer = Some((certificate.clone(), parsed.validity().not_after.to_datetime().into()));
        }
    }
    let Some((certificate, not_after)) = signer else {
        return Err(broken(roots, format!("holds no certificate for the key in {}", key.display())));
    };
    let issuer = Issuer::from_ca_cert_der(&certificate, pair)?;
    Ok(Authority { issuer, roots: list, not_after })
}

/// Makes `dir` with mode 0700, or checks that nobody else may look into it.
pub(crate) fn private_dir(dir: &Path) -> Result<(), CaError> {
    let fail = |what| move |error| CaError::Folder { what, path: dir.to_owned(), error };
    if !dir.exists() {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(fail("make"))?;
    }
    let mode = fs::metadata(dir).map_err(fail("look at"))?.mode() & 0o7777;
    if mode & 0o077 != 0 {
        return Err(CaError::TooWide { path: dir.to_owned(), mode });
    }
    Ok(())
}

#[cfg(test)]
mod tests;
