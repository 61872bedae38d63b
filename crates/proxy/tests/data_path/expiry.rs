//! Connections between sidecars end with the certificates that they were made with.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use engine::Protocol;
use engine::authorize::Authorizer;
use net::identity::Identity;
use net::tls::{self, Alpn};
use testkit::ca::Leaf;
use testkit::raw::{Raw, RawServer};
use testkit::wait::LONG;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::world::{Sidecar, World, listener, live, settings};

const GET: &str = "GET / HTTP/1.1\r\nHost: cart\r\n\r\n";
const HANG: &str = "GET /hang HTTP/1.1\r\nHost: cart\r\n\r\n";

/// How late an end may be on a busy machine.
const LATE: Duration = Duration::from_millis(1_500);

/// An identity whose certificate expires two to three seconds from now, and when.
fn short(world: &World, account: &str) -> (Identity, SystemTime) {
    // Certificates count in seconds.
    let soon = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() + 3;
    let end = UNIX_EPOCH + Duration::from_secs(soon);
    (world.ca.issue(&Leaf { not_after: end, ..Leaf::of("shop", account) }), end)
}

/// Gives `identity` an hour more.
fn renew(world: &World, identity: &Identity, account: &str) {
    let chain = world.ca.sign(&identity.csr().unwrap(), &Leaf::of("shop", account));
    identity.install(chain, vec![world.ca.root()]).unwrap();
}

/// Answers in its own time, or not at all.
fn app() -> RawServer {
    RawServer::start(|_, mut raw| {
        while let Some(head) = raw.next_head() {
            if head.starts_with("GET /hang ") {
                return raw.expect_end();
            }
            std::thread::sleep(Duration::from_millis(10));
            raw.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
        }
    })
}

trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

/// Calls the sidecar of `cart` as another sidecar does.
async fn call(server: &Sidecar, app: &RawServer, identity: &Identity, alpn: Alpn) -> impl Stream + use<> {
    let stream = tokio::net::TcpStream::connect(server.inbound()).await.unwrap();
    let sni = format!("p{}.cart-0.shop.heddle", app.address().port());
    tls::connect(stream, identity, "spiffe://mesh.test/ns/shop/sa/cart", &sni, alpn).await.unwrap()
}

/// All bytes until the end, which must come.
async fn rest(stream: &mut (impl AsyncRead + Unpin)) -> Vec<u8> {
    let mut got = Vec::new();
    // An error is as good as the end.
    let _ = tokio::time::timeout(LONG, stream.read_to_end(&mut got)).await.expect("it is ended");
    got
}

#[track_caller]
fn ended_in_time(end: SystemTime) {
    let now = SystemTime::now();
    assert!(now <= end + LATE, "{:?} late", now.duration_since(end));
}

#[tokio::test]
async fn a_caller_is_served_until_shortly_before_its_certificate_expires() {
    let (world, app) = (World::new(), app());
    let server = world.server(app.address(), Protocol::Http1, Authorizer::default());
    let (identity, end) = short(&world, "client");
    let (mut busy, mut quiet) =
        (call(&server, &app, &identity, Alpn::Http1).await, call(&server, &app, &identity, Alpn::Http1).await);
    let mut answers = 0;
    loop {
        busy.write_all(GET.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        while !answer.ends_with(b"\r\n\r\nok") {
            let n = tokio::time::timeout(LONG, busy.read_buf(&mut answer)).await.expect("it answers").unwrap();
            assert!(n > 0, "a request is met by the end after {answers} answers");
        }
        answers += 1;
        let answer = String::from_utf8(answer).unwrap().to_ascii_lowercase();
        assert!(answer.starts_with("http/1.1 200 "), "{answer}");
        if answer.contains("connection: close") {
            break;
        }
    }
    assert!(answers > 20, "{answers}");
    assert!(SystemTime::now() < end, "no request is taken when it is over");
    assert_eq!((rest(&mut busy).await, rest(&mut quiet).await), (vec![], vec![]));
    ended_in_time(end);
}

#[tokio::test]
async fn what_is_under_way_when_a_certificate_expires_is_ended() {
    let (world, app) = (World::new(), app());
    let server = world.server(app.address(), Protocol::Http1, Authorizer::default());
    let (identity, end) = short(&world, "client");
    let mut http1 = call(&server, &app, &identity, Alpn::Http1).await;
    let mut link = call(&server, &app, &identity, Alpn::Link).await;
    http1.write_all(HANG.as_bytes()).await.unwrap();
    let frames = [&[5, 0, 0, 0, 0, 0, 0, 0], &[0, 0, 0, HANG.len() as u8, 0, 0, 0, 0][..], HANG.as_bytes()].concat();
    link.write_all(&frames).await.unwrap();
    let http2 = call(&server, &app, &identity, Alpn::Http2).await;
    let (mut requests, connection) = h2::client::handshake(http2).await.unwrap();
    let connection = tokio::spawn(connection);
    let request = http::Request::get("http://cart/hang").body(()).unwrap();
    let (answer, _) = requests.send_request(request, true).unwrap();

    let text = String::from_utf8(rest(&mut http1).await).unwrap();
    assert!(text.starts_with("HTTP/1.1 503 ") && text.contains("heddle-reason: certificate_expired\r\n"), "{text}");
    let answer = tokio::time::timeout(LONG, answer).await.expect("it is ended").unwrap();
    assert_eq!(
        (answer.status(), &answer.headers()["heddle-reason"]),
        (503.try_into().unwrap(), &"certificate_expired".parse().unwrap())
    );
    drop(answer);
    let _ = tokio::time::timeout(LONG, connection).await.expect("the connection ends, too");
    // The client of a link is told before.
    assert_eq!(rest(&mut link).await.get(..8), Some(&[4, 0, 0, 0, 0, 0, 0, 0][..]));
    ended_in_time(end);
}

/// An application that echoes bytes, and is cut off at some time.
fn echo() -> RawServer {
    RawServer::start(|_, mut raw| {
        raw.expect("ping").send("pong");
        raw.read_to_end();
    })
}

#[tokio::test]
async fn an_opaque_connection_ends_with_its_callers_certificate() {
    let (world, app) = (World::new(), echo());
    let server = world.server(app.address(), Protocol::Tcp, Authorizer::default());
    let (identity, end) = short(&world, "client");
    let mut stream = call(&server, &app, &identity, Alpn::Tcp).await;
    stream.write_all(b"ping").await.unwrap();
    assert_eq!(rest(&mut stream).await, b"pong");
    assert!(SystemTime::now() >= end - Duration::from_millis(100));
    ended_in_time(end);
    // The application's side is over, too.
    app.finish();
}

/// A pair of sidecars, of which the server's certificate expires soon, and when.
fn pair(
    world: &World,
    app: &RawServer,
    protocol: Protocol,
    client: Identity,
) -> (Sidecar, Sidecar, Identity, SystemTime) {
    let (identity, end) = short(world, "cart");
    let server = world.server_as(identity.clone(), app.address(), protocol);
    world.publish(protocol, vec![server.endpoint(app.address().port())]);
    let mut settings = settings("shop/client-0");
    settings.outbound = Some(testkit::address::free());
    listener(&mut settings);
    (world.start(settings, client, live(None)), server, identity, end)
}

#[test]
fn an_opaque_connection_ends_with_its_servers_certificate() {
    let (world, app) = (World::new(), echo());
    let (client, _server, _, end) = pair(&world, &app, Protocol::Tcp, world.identity("client"));
    let mut raw = Raw::connect(client.settings.services[0].listen);
    raw.send("ping").expect("pong");
    // It is cut off, which is no orderly end.
    assert!(raw.next_head().is_none());
    assert!(SystemTime::now() >= end - Duration::from_millis(100));
    ended_in_time(end);
}

#[test]
fn an_answer_is_awaited_until_the_servers_certificate_expires() {
    let (world, app) = (World::new(), app());
    let (client, _server, _, end) = pair(&world, &app, Protocol::Http1, world.identity("client"));
    let mut raw = client.connect();
    raw.send("GET http://cart/hang HTTP/1.1\r\nHost: cart\r\n\r\n");
    let head = raw.read_head();
    assert!(head.starts_with("HTTP/1.1 503 "), "{head}");
    assert!(SystemTime::now() >= end - Duration::from_millis(100), "{head}");
    ended_in_time(end);
}

#[test]
fn no_request_is_lost_when_certificates_are_renewed_in_time() {
    let (world, app) = (World::new(), app());
    let (client_identity, _) = short(&world, "client");
    let (client, _server, server_identity, end) = pair(&world, &app, Protocol::Http1, client_identity.clone());
    let mut raw = client.connect();
    let mut renewed = false;
    while SystemTime::now() < end + Duration::from_millis(500) {
        raw.send("POST http://cart/ HTTP/1.1\r\nHost: cart\r\nContent-Length: 0\r\n\r\n");
        let head = raw.read_head();
        assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
        raw.expect("ok");
        if !std::mem::replace(&mut renewed, true) {
            renew(&world, &client_identity, "client");
            renew(&world, &server_identity, "cart");
        }
    }
}
