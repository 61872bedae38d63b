//! Every way in which a handshake can end.
#![allow(clippy::unwrap_used)] // In a test the panic is the message.

use std::sync::Arc;
use std::time::Duration;

use net::identity::{Groups, Identity};
use net::spiffe::Id;
use net::tls::{self, Alpn, Error, Peer};
use rustls_pki_types::ServerName;
use testkit::ca::{Ca, Leaf};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio_rustls::{TlsAcceptor, TlsConnector, client, server};

const CART: &str = "spiffe://mesh.test/ns/shop/sa/cart";
const SNI: &str = "p8080.cart-0.shop.heddle";

type Connected = Result<client::TlsStream<DuplexStream>, Error>;
type Accepted = Result<(server::TlsStream<DuplexStream>, Peer), Error>;

async fn shake(client: &Identity, server: &Identity, expected: &str, alpn: Alpn) -> (Connected, Accepted) {
    let (a, b) = duplex(64 * 1024);
    tokio::join!(tls::connect(a, client, expected, SNI, alpn), tls::accept(b, server))
}

/// A proxy, and whoever passes for the control plane.
async fn shake_control(
    proxy: &Identity,
    control: &Identity,
) -> (Connected, Result<(server::TlsStream<DuplexStream>, Option<Id>), Error>) {
    let (a, b) = duplex(64 * 1024);
    tokio::join!(tls::connect_control(a, proxy), tls::accept_optional(b, control))
}

/// TLS 1.3 lets a client finish before its certificate is judged: what the server thought of it comes with the first read.
async fn verdict(connected: Connected) -> String {
    let error = connected.unwrap().read(&mut [0; 1]).await.unwrap_err();
    format!("{:?}", tls::refusal(&error).unwrap())
}

#[tokio::test]
async fn both_sides_learn_who_the_other_is_and_what_is_spoken() {
    let ca = Ca::new();
    let (front, cart) = (ca.workload("shop", "front"), ca.workload("shop", "cart"));
    for alpn in Alpn::ALL {
        let (connected, accepted) = shake(&front, &cart, CART, alpn).await;
        let (mut client, (mut server, peer)) = (connected.unwrap(), accepted.unwrap());
        assert_eq!(peer.id.as_str(), "spiffe://mesh.test/ns/shop/sa/front");
        assert_eq!((peer.alpn, peer.sni.as_str()), (alpn, SNI));
        assert_eq!(client.get_ref().1.protocol_version(), Some(rustls::ProtocolVersion::TLSv1_3));
        let group = client.get_ref().1.negotiated_key_exchange_group().unwrap().name();
        assert_eq!(group, rustls::NamedGroup::X25519MLKEM768);
        client.write_all(b"hello").await.unwrap();
        let mut got = [0; 5];
        server.read_exact(&mut got).await.unwrap();
        assert_eq!(&got, b"hello");
    }
}

#[tokio::test]
async fn classical_key_exchange_meets_hybrid() {
    let ca = Ca::new();
    let front = Identity::generate_with(Groups::Classical).unwrap();
    front.install(ca.sign(&front.csr().unwrap(), &Leaf::of("shop", "front")), vec![ca.root()]).unwrap();
    let (connected, accepted) = shake(&front, &ca.workload("shop", "cart"), CART, Alpn::Tcp).await;
    let group = connected.unwrap().get_ref().1.negotiated_key_exchange_group().unwrap().name();
    assert_eq!(group, rustls::NamedGroup::X25519);
    accepted.unwrap();
}

#[tokio::test]
async fn a_server_of_another_identity_is_refused_before_a_byte_is_sent() {
    let ca = Ca::new();
    let (front, mallory) = (ca.workload("shop", "front"), ca.workload("shop", "mallory"));
    let (connected, accepted) = shake(&front, &mallory, CART, Alpn::Http1).await;
    match connected.unwrap_err() {
        Error::WrongIdentity { want, got } => {
            assert_eq!((want.as_str(), got.as_str()), (CART, "spiffe://mesh.test/ns/shop/sa/mallory"));
        }
        other => panic!("{other}"),
    }
    let mut received = Vec::new();
    let _ = accepted.unwrap().0.read_to_end(&mut received).await;
    assert!(received.is_empty());
}

#[tokio::test]
async fn expired_certificates_are_refused_by_either_side() {
    let ca = Ca::new();
    let good = ca.workload("shop", "front");
    let old = ca.issue(&Leaf::of("shop", "cart").expired());
    let (connected, accepted) = shake(&good, &old, CART, Alpn::Http1).await;
    assert!(matches!(connected, Err(Error::Expired)), "{connected:?}");
    assert!(matches!(accepted, Err(Error::Refused(rustls::AlertDescription::CertificateExpired))), "{accepted:?}");

    let (connected, accepted) = shake(&old, &good, "spiffe://mesh.test/ns/shop/sa/front", Alpn::Http1).await;
    assert!(matches!(accepted, Err(Error::Expired)), "{accepted:?}");
    assert_eq!(verdict(connected).await, "CertificateExpired");
}

#[tokio::test]
async fn certificates_of_another_root_are_refused_by_either_side() {
    let (ours, theirs) = (Ca::new(), Ca::new());
    let (front, stranger) = (ours.workload("shop", "front"), theirs.workload("shop", "cart"));
    let (connected, accepted) = shake(&front, &stranger, CART, Alpn::Http1).await;
    assert!(matches!(connected, Err(Error::UnknownRoot)), "{connected:?}");
    assert!(matches!(accepted, Err(Error::Refused(_))), "{accepted:?}");

    // The stranger trusts our root, so that it is the server that must refuse.
    stranger.set_roots(vec![ours.root()]).unwrap();
    let (connected, accepted) = shake(&stranger, &front, "spiffe://mesh.test/ns/shop/sa/front", Alpn::Http1).await;
    assert!(matches!(accepted, Err(Error::UnknownRoot)), "{accepted:?}");
    assert!(["UnknownCA", "DecryptError"].contains(&verdict(connected).await.as_str()));
}

#[tokio::test]
async fn a_certificate_names_exactly_one_spiffe_id_of_our_trust_domain() {
    let ca = Ca::new();
    let cart = ca.workload("shop", "cart");
    let good = Leaf::of("shop", "front").uris.remove(0);
    let other_domain = Leaf::in_domain("other.test", "shop", "front");
    let (_connected, accepted) = shake(&ca.issue(&other_domain), &cart, CART, Alpn::Http1).await;
    assert!(matches!(accepted, Err(Error::WrongIdentity { .. })), "{accepted:?}");

    for uris in [vec![], vec![good.clone(), good.clone()], vec!["https://mesh.test/".into()]] {
        let front = Identity::generate().unwrap();
        let leaf = Leaf { uris, ..Leaf::of("shop", "front") };
        let chain = ca.sign(&front.csr().unwrap(), &leaf);
        // Our own side does not take such a certificate into use, so a plain rustls client shows it.
        front.install(chain.clone(), vec![ca.root()]).unwrap_err();
        let accepted = accept_from(raw_client(&ca, Some(chain_with_key(&ca, &leaf)), &[b"heddle-h1"]), &cart).await;
        assert!(matches!(accepted, Err(Error::Certificate(_))), "{leaf:?}: {accepted:?}");
    }
}

#[tokio::test]
async fn a_client_without_certificate_is_refused_by_a_sidecar_and_taken_by_the_control_plane() {
    let ca = Ca::new();
    let cart = ca.workload("shop", "cart");
    let accepted = accept_from(raw_client(&ca, None, &[b"heddle-h1"]), &cart).await;
    assert!(matches!(accepted, Err(Error::NoCertificate)), "{accepted:?}");

    let control = ca.workload("heddle-system", "control");
    let newcomer = Identity::generate().unwrap();
    newcomer.set_roots(vec![ca.root()]).unwrap();
    let (connected, accepted) = shake_control(&newcomer, &control).await;
    connected.unwrap();
    assert_eq!(accepted.unwrap().1, None);

    let (connected, accepted) = shake_control(&cart, &control).await;
    connected.unwrap();
    assert_eq!(accepted.unwrap().1.unwrap().as_str(), CART);
}

#[tokio::test]
async fn the_control_plane_verifies_a_certificate_that_is_shown() {
    let ca = Ca::new();
    let control = ca.workload("heddle-system", "control");
    let old = ca.issue(&Leaf::of("shop", "cart").expired());
    let (_connected, accepted) = shake_control(&old, &control).await;
    assert!(matches!(accepted, Err(Error::Expired)), "{accepted:?}");
}

#[tokio::test]
async fn nobody_else_passes_for_the_control_plane() {
    let ca = Ca::new();
    let other_domain = Leaf::in_domain("other.test", "heddle-system", "control");
    for impostor in [ca.workload("shop", "control"), ca.workload("heddle-system", "cart"), ca.issue(&other_domain)] {
        let (connected, _accepted) = shake_control(&ca.workload("shop", "cart"), &impostor).await;
        assert!(matches!(connected, Err(Error::WrongIdentity { .. })), "{connected:?}");
    }
}

#[tokio::test]
async fn tls_1_2_is_refused() {
    let ca = Ca::new();
    let cart = ca.workload("shop", "cart");
    let mut config = raw_config(&ca, None, &[&rustls::version::TLS12]);
    config.alpn_protocols = vec![b"heddle-h1".to_vec()];
    let accepted = accept_from(Arc::new(config), &cart).await;
    assert!(matches!(accepted, Err(Error::Protocol(_))), "{accepted:?}");
}

#[tokio::test]
async fn an_unknown_protocol_inside_tls_is_refused() {
    let ca = Ca::new();
    let cart = ca.workload("shop", "cart");
    let leaf = Leaf::of("shop", "front");
    for alpn in [&[b"h2" as &[u8]][..], &[]] {
        let accepted = accept_from(raw_client(&ca, Some(chain_with_key(&ca, &leaf)), alpn), &cart).await;
        assert!(matches!(accepted, Err(Error::Protocol(_))), "{alpn:?}: {accepted:?}");
    }
}

#[tokio::test]
async fn garbage_is_refused() {
    let ca = Ca::new();
    let cart = ca.workload("shop", "cart");
    let record_too_large = [&[0x16, 3, 1, 0xff, 0xff][..], &[0; 70_000]].concat();
    for garbage in [&b"GET / HTTP/1.1\r\n\r\n"[..], &[0; 64], &[0x16, 3, 1, 0, 4, 1, 0, 0, 0], &record_too_large] {
        let (mut a, b) = duplex(128 * 1024);
        a.write_all(garbage).await.unwrap();
        drop(a);
        let accepted = tls::accept(b, &cart).await;
        assert!(matches!(accepted, Err(Error::Protocol(_) | Error::Io(_))), "{accepted:?}");
    }
    let (mut a, b) = duplex(64 * 1024);
    a.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await.unwrap();
    let connected = tls::connect(b, &ca.workload("shop", "front"), CART, SNI, Alpn::Http1).await;
    assert!(matches!(connected, Err(Error::Protocol(_))), "{connected:?}");
}

#[tokio::test(start_paused = true)]
async fn a_half_open_peer_ends_with_the_callers_time_limit() {
    let cart = Ca::new().workload("shop", "cart");
    let (_silent, b) = duplex(64);
    assert!(tokio::time::timeout(Duration::from_secs(10), tls::accept(b, &cart)).await.is_err());
}

#[tokio::test]
async fn a_new_certificate_serves_new_connections_while_old_ones_go_on() {
    let (old_ca, new_ca) = (Ca::new(), Ca::new());
    let (front, cart) = (old_ca.workload("shop", "front"), old_ca.workload("shop", "cart"));
    let (connected, accepted) = shake(&front, &cart, CART, Alpn::Tcp).await;
    let (mut old_client, (mut old_server, _)) = (connected.unwrap(), accepted.unwrap());

    // Roots change with overlap: first everybody trusts both, then certificates change, then the old root goes.
    let both = vec![old_ca.root(), new_ca.root()];
    front.set_roots(both.clone()).unwrap();
    cart.install(new_ca.sign(&cart.csr().unwrap(), &Leaf::of("shop", "cart")), both).unwrap();
    let (connected, accepted) = shake(&front, &cart, CART, Alpn::Tcp).await;
    accepted.unwrap();
    let shown = connected.unwrap().get_ref().1.peer_certificates().unwrap()[0].clone();
    front.install(new_ca.sign(&front.csr().unwrap(), &Leaf::of("shop", "front")), vec![new_ca.root()]).unwrap();
    cart.set_roots(vec![new_ca.root()]).unwrap();
    let (connected, accepted) = shake(&front, &cart, CART, Alpn::Tcp).await;
    accepted.unwrap();
    assert_eq!(connected.unwrap().get_ref().1.peer_certificates().unwrap()[0], shown);

    old_client.write_all(b"still here").await.unwrap();
    let mut got = [0; 10];
    old_server.read_exact(&mut got).await.unwrap();
    assert_eq!(&got, b"still here");
}

#[tokio::test]
async fn nothing_is_resumed() {
    let ca = Ca::new();
    let (front, cart) = (ca.workload("shop", "front"), ca.workload("shop", "cart"));
    for _ in 0..2 {
        let (connected, accepted) = shake(&front, &cart, CART, Alpn::Http1).await;
        let (mut client, (mut server, _)) = (connected.unwrap(), accepted.unwrap());
        // Tickets, if there were any, would arrive before these bytes.
        server.write_all(b"x").await.unwrap();
        server.flush().await.unwrap();
        client.read_exact(&mut [0; 1]).await.unwrap();
        assert_eq!(client.get_ref().1.handshake_kind(), Some(rustls::HandshakeKind::Full));
        assert_eq!(client.get_ref().1.tls13_tickets_received(), 0);
    }
}

#[tokio::test]
async fn an_identity_without_certificate_says_that_it_is_not_ready() {
    let blank = Identity::generate().unwrap();
    let (connected, accepted) = shake(&blank, &blank, CART, Alpn::Http1).await;
    assert!(matches!(connected, Err(Error::NotReady(_))) && matches!(accepted, Err(Error::NotReady(_))));
}

#[test]
fn an_identity_survives_its_files_and_refuses_foreign_certificates() {
    let (ca, dir) = (Ca::new(), tempfile::tempdir().unwrap());
    let cart = ca.workload("shop", "cart");
    cart.save(dir.path()).unwrap();
    let again = Identity::load(dir.path()).unwrap();
    assert_eq!((again.id(), again.validity(), again.roots()), (cart.id(), cart.validity(), cart.roots()));
    assert_eq!(again.id().unwrap().as_str(), CART);

    let other = Identity::generate().unwrap();
    let foreign = ca.sign(&other.csr().unwrap(), &Leaf::of("shop", "other"));
    cart.install(foreign, vec![ca.root()]).unwrap_err();
    assert_eq!(cart.id().unwrap().as_str(), CART, "a refused certificate must not replace a good one");

    std::fs::write(dir.path().join("certificate.pem"), "-----BEGIN CERTIFICATE-----\n?\n-----END CERTIFICATE-----\n")
        .unwrap();
    assert!(Identity::load(dir.path()).unwrap_err().to_string().contains("certificate.pem"));
}

/// A certificate and the key that it is of, for a client that is not ours.
fn chain_with_key(ca: &Ca, leaf: &Leaf) -> (Vec<rustls_pki_types::CertificateDer<'static>>, rcgen::KeyPair) {
    let key = rcgen::KeyPair::generate().unwrap();
    let request = rcgen::CertificateParams::default().serialize_request(&key).unwrap();
    (ca.sign(request.der(), leaf), key)
}

type ClientAuth = Option<(Vec<rustls_pki_types::CertificateDer<'static>>, rcgen::KeyPair)>;

fn raw_config(
    ca: &Ca,
    auth: ClientAuth,
    versions: &[&'static rustls::SupportedProtocolVersion],
) -> rustls::ClientConfig {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(ca.root()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider).with_protocol_versions(versions).unwrap();
    let builder = builder.with_root_certificates(roots);
    match auth {
        None => builder.with_no_client_auth(),
        Some((chain, key)) => {
            let key = rustls_pki_types::PrivatePkcs8KeyDer::from(key.serialize_der());
            builder.with_client_auth_cert(chain, key.into()).unwrap()
        }
    }
}

fn raw_client(ca: &Ca, auth: ClientAuth, alpn: &[&[u8]]) -> Arc<rustls::ClientConfig> {
    // It must get as far as showing its certificate, so it may not judge the server by a host name.
    let mut config = raw_config(ca, auth, &[&rustls::version::TLS13]);
    config.alpn_protocols = alpn.iter().map(|alpn| alpn.to_vec()).collect();
    config.dangerous().set_certificate_verifier(Arc::new(AnyServer));
    Arc::new(config)
}

async fn accept_from(config: Arc<rustls::ClientConfig>, server: &Identity) -> Accepted {
    let (a, b) = duplex(64 * 1024);
    let name = ServerName::try_from(SNI).unwrap();
    let (_, accepted) = tokio::join!(
        async {
            // Held open until the server has judged.
            if let Ok(mut stream) = TlsConnector::from(config).connect(name, a).await {
                let _ = stream.read(&mut [0; 1]).await;
            }
        },
        tls::accept(b, server)
    );
    accepted
}

/// Trusts anybody.
#[derive(Debug)]
struct AnyServer;

impl rustls::client::danger::ServerCertVerifier for AnyServer {
    fn verify_server_cert(
        &self,
        _: &rustls_pki_types::CertificateDer<'_>,
        _: &[rustls_pki_types::CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: rustls_pki_types::UnixTime,
    ) -> Result<rustls::client::danger::ServerCertVerified, rustls::Error> {
        Ok(rustls::client::danger::ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &rustls_pki_types::CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &rustls_pki_types::CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        rustls::crypto::aws_lc_rs::default_provider().signature_verification_algorithms.supported_schemes()
    }
}

/// The other side of TLS 1.2: a server that offers nothing else.
#[tokio::test]
async fn a_tls_1_2_server_is_refused() {
    let ca = Ca::new();
    let (chain, key) = chain_with_key(&ca, &Leaf::of("shop", "cart"));
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS12])
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, rustls_pki_types::PrivatePkcs8KeyDer::from(key.serialize_der()).into())
        .unwrap();
    let (a, b) = duplex(64 * 1024);
    let front = ca.workload("shop", "front");
    let (connected, _) =
        tokio::join!(tls::connect(a, &front, CART, SNI, Alpn::Http1), TlsAcceptor::from(Arc::new(config)).accept(b));
    assert!(matches!(connected, Err(Error::Protocol(_) | Error::Refused(_))), "{connected:?}");
}
