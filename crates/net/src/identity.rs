//! A key, its certificate and the roots that peers are verified with, swapped while connections go on.
//!
//! rustls configurations are expensive to build and cheap to share, so every change builds them once: one client
//! configuration per application protocol, none per peer. The identity that a peer must prove differs per connection; it is
//! compared after the handshake and before any byte of the application (see [`crate::tls`]).

mod verify;

use std::fmt;
use std::path::Path;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256};
use rustls::client::Resumption;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};

use crate::files;
use crate::grant::Grant;
use crate::spiffe;
use crate::tls::Alpn;

const KEY_FILE: &str = "key.pem";
const CERTIFICATE_FILE: &str = "certificate.pem";
const ROOTS_FILE: &str = "roots.pem";

/// Largest PEM file that is read, bytes: hundreds of certificates.
const MAX_PEM: usize = 1024 * 1024;

/// Why an identity cannot be made, changed, kept or used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The key could not be made or read.
    #[error("the private key is unusable: {0}")]
    Key(String),
    /// A certificate does not fit: not parsable, of another key, or without a SPIFFE ID.
    #[error("the certificate is unusable: {0}")]
    Certificate(String),
    /// A root is no certificate.
    #[error("a root certificate is unusable: {0}")]
    Root(String),
    /// A file could not be read or written.
    #[error(transparent)]
    Files(#[from] files::Error),
    /// There is no certificate, or there are no roots, yet.
    #[error("no certificate has been issued yet")]
    NotReady,
}

/// Which key exchanges are offered, in order of preference.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Groups {
    /// X25519MLKEM768, then the classical ones: recorded traffic stays secret from a quantum computer.
    #[default]
    PostQuantum,
    /// X25519 alone: what peers without the hybrid use; for measurements beside them.
    Classical,
}

/// When a certificate holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Validity {
    /// From when.
    pub not_before: SystemTime,
    /// Until when.
    pub not_after: SystemTime,
}

/// A workload's identity. Clones share it: what is installed through one is used by all.
#[derive(Clone)]
pub struct Identity(Arc<Shared>);

struct Shared {
    key: KeyPair,
    provider: Arc<CryptoProvider>,
    state: RwLock<Arc<State>>,
}

/// Everything that changes together.
#[derive(Default)]
struct State {
    chain: Vec<CertificateDer<'static>>,
    roots: Vec<CertificateDer<'static>>,
    leaf: Option<Leaf>,
    configs: Option<Configs>,
}

/// What is read once from the leaf certificate.
struct Leaf {
    id: spiffe::Id,
    validity: Validity,
}

/// Ready configurations. Those that need a certificate of our own are absent before there is one.
struct Configs {
    control_client: Arc<ClientConfig>,
    peers: Option<PeerConfigs>,
}

struct PeerConfigs {
    clients: [Arc<ClientConfig>; Alpn::ALL.len()],
    server: Arc<ServerConfig>,
    control_server: Arc<ServerConfig>,
}

impl Identity {
    /// Makes a new key (ECDSA P-256) with the default key exchanges. There is no certificate and there are no roots yet.
    ///
    /// # Errors
    /// The system has no randomness to give.
    pub fn generate() -> Result<Identity, Error> {
        Identity::generate_with(Groups::default())
    }

    /// Like [`Identity::generate`], with chosen key exchanges.
    ///
    /// # Errors
    /// The system has no randomness to give.
    pub fn generate_with(groups: Groups) -> Result<Identity, Error> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(|error| Error::Key(error.to_string()))?;
        Ok(Identity::with_key(key, groups))
    }

    fn with_key(key: KeyPair, groups: Groups) -> Identity {
        let mut provider = aws_lc_rs::default_provider();
        if groups == Groups::Classical {
            provider.kx_groups = vec![aws_lc_rs::kx_group::X25519];
        }
        Identity(Arc::new(Shared { key, provider: Arc::new(provider), state: RwLock::default() }))
    }

    /// A certificate request (PKCS #10, DER) for this key. It names nobody: who the key belongs to is what the authority
    /// finds out by attestation.
    ///
    /// # Errors
    /// The key cannot sign.
    pub fn csr(&self) -> Result<Vec<u8>, Error> {
        let mut parameters = rcgen::CertificateParams::default();
        parameters.distinguished_name = rcgen::DistinguishedName::new();
        let request = parameters.serialize_request(&self.0.key).map_err(|error| Error::Key(error.to_string()))?;
        Ok(request.der().to_vec())
    }

    /// Takes a certificate (leaf first) and the roots of the mesh into use: new connections prove it and trust them, old
    /// ones go on.
    ///
    /// # Errors
    /// The leaf is of another key or carries no SPIFFE ID, or a certificate cannot be parsed. The old state stays.
    pub fn install(
        &self,
        chain: Vec<CertificateDer<'static>>,
        roots: Vec<CertificateDer<'static>>,
    ) -> Result<(), Error> {
        self.replace(State::build(&self.0, chain, roots)?);
        Ok(())
    }

    /// Trusts these roots from now on.
    ///
    /// # Errors
    /// A root cannot be parsed. The old state stays.
    pub fn set_roots(&self, roots: Vec<CertificateDer<'static>>) -> Result<(), Error> {
        let chain = self.state().chain.clone();
        self.install(chain, roots)
    }

    /// Who this is, once there is a certificate.
    pub fn id(&self) -> Option<spiffe::Id> {
        self.state().leaf.as_ref().map(|leaf| leaf.id.clone())
    }

    /// When the certificate holds, once there is one.
    pub fn validity(&self) -> Option<Validity> {
        self.state().leaf.as_ref().map(|leaf| leaf.validity)
    }

    /// What the certificate lets its holder register as, once there is one.
    pub fn grant(&self) -> Option<Grant> {
        self.state().chain.first().and_then(|leaf| Grant::of(leaf))
    }

    /// The roots that are trusted now, DER.
    pub fn roots(&self) -> Vec<CertificateDer<'static>> {
        self.state().roots.clone()
    }

    /// Keeps key, certificate and roots in `dir`, readable by the owner alone.
    ///
    /// # Errors
    /// What the file system says.
    pub fn save(&self, dir: &Path) -> Result<(), Error> {
        let state = self.state();
        files::write_private(&dir.join(KEY_FILE), self.0.key.serialize_pem().as_bytes())?;
        files::write_private(&dir.join(CERTIFICATE_FILE), encode(&state.chain).as_bytes())?;
        files::write_private(&dir.join(ROOTS_FILE), encode(&state.roots).as_bytes())?;
        Ok(())
    }

    /// Takes up what [`Identity::save`] kept; an expired certificate is taken up too, and peers will refuse it.
    ///
    /// # Errors
    /// A file is missing ([`files::Error::is_missing`]), may be read by others, or does not hold what it should.
    pub fn load(dir: &Path) -> Result<Identity, Error> {
        let path = dir.join(KEY_FILE);
        let pem = files::read_private(&path, MAX_PEM)?;
        let key = std::str::from_utf8(&pem)
            .map_err(|error| error.to_string())
            .and_then(|pem| KeyPair::from_pem(pem).map_err(|error| error.to_string()))
            .map_err(|reason| files::Error::Content { path, reason })?;
        let identity = Identity::with_key(key, Groups::default());
        identity.install(read_certificates(&dir.join(CERTIFICATE_FILE))?, read_certificates(&dir.join(ROOTS_FILE))?)?;
        Ok(identity)
    }

    /// For a connection to another sidecar.
    ///
    /// # Errors
    /// [`Error::NotReady`] before there is a certificate.
    pub fn client_config(&self, alpn: Alpn) -> Result<Arc<ClientConfig>, Error> {
        self.peers(|peers| Arc::clone(&peers.clients[alpn as usize]))
    }

    /// For connections from other sidecars.
    ///
    /// # Errors
    /// [`Error::NotReady`] before there is a certificate.
    pub fn server_config(&self) -> Result<Arc<ServerConfig>, Error> {
        self.peers(|peers| Arc::clone(&peers.server))
    }

    /// For a connection to the control plane; it proves our identity once there is a certificate.
    ///
    /// # Errors
    /// [`Error::NotReady`] before there are roots.
    pub fn control_client_config(&self) -> Result<Arc<ClientConfig>, Error> {
        self.state().configs.as_ref().map(|configs| Arc::clone(&configs.control_client)).ok_or(Error::NotReady)
    }

    /// For connections to a control plane, whose clients need no certificate for their first request.
    ///
    /// # Errors
    /// [`Error::NotReady`] before there is a certificate.
    pub fn control_server_config(&self) -> Result<Arc<ServerConfig>, Error> {
        self.peers(|peers| Arc::clone(&peers.control_server))
    }

    fn peers<T>(&self, pick: impl FnOnce(&PeerConfigs) -> T) -> Result<T, Error> {
        self.state().configs.as_ref().and_then(|configs| configs.peers.as_ref()).map(pick).ok_or(Error::NotReady)
    }

    fn state(&self) -> Arc<State> {
        // The lock guards a pointer that is always whole, so a panic elsewhere cannot have left it half written.
        Arc::clone(&self.0.state.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn replace(&self, state: State) {
        *self.0.state.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(state);
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity").field("id", &self.id()).finish_non_exhaustive()
    }
}

impl State {
    fn build(
        shared: &Shared,
        chain: Vec<CertificateDer<'static>>,
        roots: Vec<CertificateDer<'static>>,
    ) -> Result<State, Error> {
        let leaf = chain.first().map(read_leaf).transpose()?;
        let certified = if chain.is_empty() { None } else { Some(shared.certify(chain.clone())?) };
        let configs = if roots.is_empty() { None } else { Some(shared.configure(&roots, certified)?) };
        Ok(State { chain, roots, leaf, configs })
    }
}

impl Shared {
    /// Joins the certificate and the key that it must be of.
    fn certify(&self, chain: Vec<CertificateDer<'static>>) -> Result<Arc<SingleCertAndKey>, Error> {
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(self.key.serialize_der()));
        let key = self.provider.key_provider.load_private_key(key).map_err(|error| Error::Key(error.to_string()))?;
        let certified = CertifiedKey::new(chain, key);
        certified.keys_match().map_err(|error| Error::Certificate(error.to_string()))?;
        Ok(Arc::new(SingleCertAndKey::from(certified)))
    }

    fn configure(
        &self,
        roots: &[CertificateDer<'static>],
        certified: Option<Arc<SingleCertAndKey>>,
    ) -> Result<Configs, Error> {
        let mut store = RootCertStore::empty();
        for root in roots {
            store.add(root.clone()).map_err(|error| Error::Root(error.to_string()))?;
        }
        let store = Arc::new(store);
        let control_client = self.client(&store, certified.clone(), vec![crate::tls::CONTROL_ALPN.to_vec()])?;
        let peers = match certified {
            Some(certified) => Some(self.configure_peers(&store, certified)?),
            None => None,
        };
        Ok(Configs { control_client, peers })
    }

    fn configure_peers(
        &self,
        store: &Arc<RootCertStore>,
        certified: Arc<SingleCertAndKey>,
    ) -> Result<PeerConfigs, Error> {
        let [h1, h2, tcp, link] =
            Alpn::ALL.map(|alpn| self.client(store, Some(Arc::clone(&certified)), vec![alpn.as_bytes().to_vec()]));
        let alpns = Alpn::ALL.map(|alpn| alpn.as_bytes().to_vec()).to_vec();
        Ok(PeerConfigs {
            clients: [h1?, h2?, tcp?, link?],
            server: self.server(store, Arc::clone(&certified), true, alpns)?,
            control_server: self.server(store, certified, false, vec![crate::tls::CONTROL_ALPN.to_vec()])?,
        })
    }

    fn client(
        &self,
        roots: &Arc<RootCertStore>,
        certified: Option<Arc<SingleCertAndKey>>,
        alpn: Vec<Vec<u8>>,
    ) -> Result<Arc<ClientConfig>, Error> {
        let builder = ClientConfig::builder_with_provider(Arc::clone(&self.provider))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(|error| Error::Certificate(error.to_string()))?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verify::ChainOnly::new(Arc::clone(roots), &self.provider)));
        let mut config = match certified {
            Some(certified) => builder.with_client_cert_resolver(certified),
            None => builder.with_no_client_auth(),
        };
        config.alpn_protocols = alpn;
        // A resumed session would skip the verification of the peer.
        config.resumption = Resumption::disabled();
        Ok(Arc::new(config))
    }

    fn server(
        &self,
        roots: &Arc<RootCertStore>,
        certified: Arc<SingleCertAndKey>,
        mandatory: bool,
        alpn: Vec<Vec<u8>>,
    ) -> Result<Arc<ServerConfig>, Error> {
        // Root hints would tell every scanner the names of our roots, and cost bytes in every handshake.
        let mut verifier = WebPkiClientVerifier::builder_with_provider(Arc::clone(roots), Arc::clone(&self.provider))
            .clear_root_hint_subjects();
        if !mandatory {
            verifier = verifier.allow_unauthenticated();
        }
        let verifier = verifier.build().map_err(|error| Error::Root(error.to_string()))?;
        let mut config = ServerConfig::builder_with_provider(Arc::clone(&self.provider))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(|error| Error::Certificate(error.to_string()))?
            .with_client_cert_verifier(verifier)
            .with_cert_resolver(certified);
        config.alpn_protocols = alpn;
        config.send_tls13_tickets = 0;
        config.session_storage = Arc::new(NoServerSessionStorage {});
        Ok(Arc::new(config))
    }
}

/// Reads every certificate of a PEM file, in order.
///
/// # Errors
/// The file cannot be read or holds something that is no certificate.
pub fn read_certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, Error> {
    let pem = files::read(path, MAX_PEM)?;
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    certificates.map_err(|error| files::Error::Content { path: path.to_path_buf(), reason: error.to_string() }.into())
}

/// Writes certificates as PEM, in order.
pub fn encode(certificates: &[CertificateDer<'_>]) -> String {
    let blocks: Vec<_> =
        certificates.iter().map(|certificate| pem::Pem::new("CERTIFICATE", certificate.to_vec())).collect();
    pem::encode_many(&blocks)
}

fn read_leaf(certificate: &CertificateDer<'_>) -> Result<Leaf, Error> {
    let (_, parsed) =
        x509_parser::parse_x509_certificate(certificate).map_err(|error| Error::Certificate(error.to_string()))?;
    let id = verify::spiffe_id(&parsed).map_err(Error::Certificate)?;
    let time = |time: x509_parser::time::ASN1Time| {
        u64::try_from(time.timestamp()).map_or(UNIX_EPOCH, |seconds| UNIX_EPOCH + Duration::from_secs(seconds))
    };
    let validity =
        Validity { not_before: time(parsed.validity().not_before), not_after: time(parsed.validity().not_after) };
    Ok(Leaf { id, validity })
}

/// When the certificate ends; `None` when it cannot be read.
pub(crate) fn not_after(certificate: &CertificateDer<'_>) -> Option<SystemTime> {
    read_leaf(certificate).ok().map(|leaf| leaf.validity.not_after)
}

pub(crate) use verify::peer_id;
