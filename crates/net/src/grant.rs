//! What a certificate of the mesh lets its holder register as: one workload, and perhaps a few labels and services alone.
//!
//! A SPIFFE ID names a namespace and a service account, which many workloads share. So the authority writes the workload, and a digest of
//! what it may claim, into the certificate's subject, which no sidecar looks at: the control plane reads it when the holder registers or
//! renews, and need keep nothing itself.

use rcgen::{DistinguishedName, DnType, DnValue};
use x509_parser::der_parser::asn1_rs::{Oid, oid};

/// The attribute `serialNumber` (X.520, 6.2.9) has the digest, as text.
const CLAIMS: Oid<'static> = oid!(2.5.4.5);

/// What a certificate grants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    /// `namespace/name`.
    pub workload: String,
    /// A digest of the labels and services that it may register with; `None`: any of its namespace.
    pub claims: Option<String>,
}

impl Grant {
    /// What a certificate (DER) grants; `None`: nothing, or it does not parse. Whoever asks has verified the certificate.
    pub fn of(certificate: &[u8]) -> Option<Grant> {
        let (_, parsed) = x509_parser::parse_x509_certificate(certificate).ok()?;
        let subject = parsed.subject();
        let workload = subject.iter_common_name().next()?.as_str().ok()?.to_owned();
        let claims = match subject.iter_by_oid(&CLAIMS).next() {
            Some(attribute) => Some(attribute.as_str().ok()?.to_owned()),
            None => None,
        };
        Some(Grant { workload, claims })
    }

    /// The subject of a certificate that grants this.
    pub fn subject(&self) -> DistinguishedName {
        let mut subject = DistinguishedName::new();
        subject.push(DnType::CommonName, DnValue::Utf8String(self.workload.clone()));
        if let Some(claims) = &self.claims {
            let oid = CLAIMS.iter().map(Iterator::collect).unwrap_or_default();
            subject.push(DnType::CustomDnType(oid), DnValue::Utf8String(claims.clone()));
        }
        subject
    }
}
