//! HTTP/2 and gRPC through two sidecars.

use std::future::poll_fn;
use std::io::Read as _;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use engine::Protocol;
use h2::{RecvStream, SendStream};
use http::{HeaderMap, Request, Response};
use testkit::address;
use tokio::net::{TcpListener, TcpStream};

use crate::world::{World, plain};

/// A client of HTTP/2 with prior knowledge.
pub(crate) type Client = h2::client::SendRequest<Bytes>;

pub(crate) async fn client(at: SocketAddr) -> Client {
    let stream = TcpStream::connect(at).await.unwrap();
    let (client, connection) = h2::client::handshake(stream).await.unwrap();
    tokio::spawn(connection);
    client
}

pub(crate) fn request(method: &str, path: &str) -> Request<()> {
    Request::builder().method(method).uri(format!("http://cart{path}")).body(()).unwrap()
}

/// Sends a request with a body and waits for the whole answer.
pub(crate) async fn call(
    client: &Client,
    request: Request<()>,
    body: &[u8],
) -> (Response<()>, Vec<u8>, Option<HeaderMap>) {
    let mut client = client.clone().ready().await.unwrap();
    let (answer, mut send) = client.send_request(request, body.is_empty()).unwrap();
    if !body.is_empty() {
        send.send_data(Bytes::copy_from_slice(body), true).unwrap();
    }
    let (parts, mut recv) = answer.await.unwrap().into_parts();
    let body = read(&mut recv).await;
    let trailers = recv.trailers().await.unwrap();
    (Response::from_parts(parts, ()), body, trailers)
}

pub(crate) async fn read(recv: &mut RecvStream) -> Vec<u8> {
    let mut body = Vec::new();
    while let Some(data) = recv.data().await {
        let data = data.unwrap();
        recv.flow_control().release_capacity(data.len()).unwrap();
        body.extend_from_slice(&data);
    }
    body
}

/// Sends all of `data` as flow control allows.
pub(crate) async fn write(send: &mut SendStream<Bytes>, mut data: Bytes) {
    while !data.is_empty() {
        send.reserve_capacity(data.len());
        let n = match send.capacity() {
            0 => poll_fn(|cx| send.poll_capacity(cx)).await.unwrap().unwrap(),
            n => n,
        };
        let piece = data.split_to(n.min(data.len()));
        send.send_data(piece, false).unwrap();
    }
}

/// An HTTP/2 application: answers every stream with `answer`. Counts its connections.
pub(crate) async fn app<F, Fut>(answer: F) -> (SocketAddr, Arc<AtomicUsize>)
where
    F: Fn(Request<RecvStream>, h2::server::SendResponse<Bytes>) -> Fut + Clone + Send + Sync + 'static,
    Fut: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind(address::free()).await.unwrap();
    let at = listener.local_addr().unwrap();
    let accepted = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&accepted);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            count.fetch_add(1, Ordering::Relaxed);
            let answer = answer.clone();
            tokio::spawn(async move {
                let mut connection = h2::server::handshake(stream).await.unwrap();
                while let Some(Ok((request, respond))) = connection.accept().await {
                    tokio::spawn(answer(request, respond));
                }
            });
        }
    });
    (at, accepted)
}

fn trailers(status: &'static str) -> HeaderMap {
    HeaderMap::from_iter([("grpc-status".parse().unwrap(), status.parse().unwrap())])
}

/// Echoes the body, with its length in the trailers.
async fn echo(request: Request<RecvStream>, mut respond: h2::server::SendResponse<Bytes>) {
    let (parts, mut recv) = request.into_parts();
    let response = Response::builder().header("content-type", "application/grpc").header("x-path", parts.uri.path());
    let mut send = respond.send_response(response.body(()).unwrap(), false).unwrap();
    while let Some(Ok(data)) = recv.data().await {
        recv.flow_control().release_capacity(data.len()).unwrap();
        write(&mut send, data).await;
    }
    send.send_trailers(trailers("0")).unwrap();
}

pub(crate) fn test(future: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(future);
}

#[test]
fn unary_calls_share_one_connection() {
    test(async {
        let (at, accepted) = app(echo).await;
        let world = World::new();
        let (sidecar, _server) = world.pair(at, Protocol::Http2);
        let client = client(sidecar.outbound()).await;
        let calls = (0..50).map(|n| {
            let client = client.clone();
            tokio::spawn(async move {
                let (head, body, trailers) = call(&client, request("POST", &format!("/{n}")), b"hello").await;
                assert_eq!(head.status(), 200);
                assert_eq!(head.headers()["x-path"], format!("/{n}").as_str());
                assert_eq!(body, b"hello");
                assert_eq!(trailers.unwrap()["grpc-status"], "0");
            })
        });
        for call in calls.collect::<Vec<_>>() {
            call.await.unwrap();
        }
        assert_eq!(accepted.load(Ordering::Relaxed), 1);
    });
}

#[test]
fn more_streams_than_one_connection_takes_open_another() {
    test(async {
        let (at, accepted) = app(echo).await;
        let world = World::new();
        world.publish(Protocol::Http2, vec![plain(at)]);
        let sidecar = world.client(|settings| settings.limits.streams = 4);
        let mut streams = Vec::new();
        for _ in 0..3 {
            let client = client(sidecar.outbound()).await;
            for _ in 0..4 {
                let mut client = client.clone().ready().await.unwrap();
                let (answer, send) = client.send_request(request("POST", "/"), false).unwrap();
                streams.push((answer.await.unwrap(), send));
            }
        }
        assert_eq!(accepted.load(Ordering::Relaxed), 3);
    });
}

#[test]
fn both_directions_stream_at_the_same_time() {
    test(async {
        let (at, _) = app(echo).await;
        let world = World::new();
        let (sidecar, _server) = world.pair(at, Protocol::Http2);
        let mut client = client(sidecar.outbound()).await.ready().await.unwrap();
        let (answer, mut send) = client.send_request(request("POST", "/stream"), false).unwrap();
        let mut recv = answer.await.unwrap().into_body();
        for n in 0..5_u8 {
            send.send_data(Bytes::copy_from_slice(&[n; 10]), false).unwrap();
            let mut got = Vec::new();
            while got.len() < 10 {
                let data = recv.data().await.unwrap().unwrap();
                recv.flow_control().release_capacity(data.len()).unwrap();
                got.extend_from_slice(&data);
            }
            assert_eq!(got, [n; 10]);
        }
        send.send_data(Bytes::new(), true).unwrap();
        assert!(recv.data().await.is_none());
        assert_eq!(recv.trailers().await.unwrap().unwrap()["grpc-status"], "0");
    });
}

#[test]
fn a_large_body_goes_there_and_back() {
    test(async {
        let (at, _) = app(echo).await;
        let world = World::new();
        let (sidecar, _server) = world.pair(at, Protocol::Http2);
        let mut client = client(sidecar.outbound()).await.ready().await.unwrap();
        let (answer, mut send) = client.send_request(request("POST", "/large"), false).unwrap();
        let body: Bytes = (0..8_000_000_u32).map(|n| (n % 251) as u8).collect::<Vec<_>>().into();
        let sent = body.clone();
        let writing = tokio::spawn(async move {
            write(&mut send, sent).await;
            send.send_data(Bytes::new(), true).unwrap();
        });
        let mut recv = answer.await.unwrap().into_body();
        let got = read(&mut recv).await;
        writing.await.unwrap();
        assert!(got == body);
    });
}

#[test]
fn a_slow_reader_stops_the_sender() {
    test(async {
        let sent = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&sent);
        let (at, _) = app(move |_, mut respond: h2::server::SendResponse<Bytes>| {
            let count = Arc::clone(&count);
            async move {
                let mut send = respond.send_response(Response::new(()), false).unwrap();
                for _ in 0..256 {
                    write(&mut send, Bytes::from_static(&[0; 64 * 1024])).await;
                    count.fetch_add(64 * 1024, Ordering::Relaxed);
                }
                send.send_data(Bytes::new(), true).unwrap();
            }
        })
        .await;
        let world = World::new();
        let (sidecar, _server) = world.pair(at, Protocol::Http2);
        let mut client = client(sidecar.outbound()).await.ready().await.unwrap();
        let (answer, _send) = client.send_request(request("GET", "/"), true).unwrap();
        let mut recv = answer.await.unwrap().into_body();
        let last = std::sync::Mutex::new((0, 0));
        let stalled = testkit::wait::until_async("the sender to stop", testkit::wait::LONG, || async {
            let now = sent.load(Ordering::Relaxed);
            let mut last = last.lock().unwrap();
            *last = if now == last.0 { (now, last.1 + 1) } else { (now, 0) };
            if last.1 >= 30 { Ok(now) } else { Err(format!("{now} bytes sent")) }
        })
        .await;
        // One window at the client, and one at each sidecar.
        assert!(stalled < 1024 * 1024, "{stalled} bytes were taken from the sender");
        assert_eq!(read(&mut recv).await.len(), 16 * 1024 * 1024);
    });
}

#[test]
fn a_reset_of_the_client_ends_the_call_at_the_application() {
    test(async {
        let (events, mut seen) = tokio::sync::mpsc::channel(2);
        let (at, _) = app(move |mut request: Request<RecvStream>, _respond| {
            let events = events.clone();
            async move {
                events.send(None).await.unwrap();
                let error = request.body_mut().data().await.unwrap().unwrap_err();
                events.send(error.reason()).await.unwrap();
            }
        })
        .await;
        let world = World::new();
        let (sidecar, _server) = world.pair(at, Protocol::Http2);
        let mut client = client(sidecar.outbound()).await.ready().await.unwrap();
        let (_answer, mut send) = client.send_request(request("POST", "/"), false).unwrap();
        assert_eq!(seen.recv().await, Some(None));
        send.send_reset(h2::Reason::CANCEL);
        assert_eq!(seen.recv().await, Some(Some(h2::Reason::CANCEL)));
    });
}

#[test]
fn refused_calls_of_grpc_get_a_status_that_grpc_reads() {
    test(async {
        let world = World::new();
        world.publish(Protocol::Http2, Vec::new());
        let sidecar = world.client(|_| {});
        let client = client(sidecar.outbound()).await;
        let mut grpc = request("POST", "/service/Method");
        grpc.headers_mut().insert("content-type", "application/grpc+proto".parse().unwrap());
        let (head, _, _) = call(&client, grpc, b"").await;
        assert_eq!(head.status(), 200);
        assert_eq!(head.headers()["grpc-status"], "14");
        assert_eq!(head.headers()["heddle-reason"], "no_endpoint");
        let (head, body, _) = call(&client, request("GET", "/"), b"").await;
        assert_eq!(head.status(), 503);
        assert!(!body.is_empty());
    });
}

#[test]
fn a_failure_in_the_trailers_counts_against_the_instance() {
    test(async {
        let (at, _) = app(|_, mut respond: h2::server::SendResponse<Bytes>| async move {
            let mut send = respond.send_response(Response::new(()), false).unwrap();
            send.send_trailers(trailers("14")).unwrap();
        })
        .await;
        let world = World::new();
        let backend = world.publish(Protocol::Http2, vec![plain(at)]);
        let sidecar = world.client(|_| {});
        let client = client(sidecar.outbound()).await;
        let (head, _, trailers) = call(&client, request("POST", "/"), b"x").await;
        assert_eq!(head.status(), 200);
        assert_eq!(trailers.unwrap()["grpc-status"], "14");
        testkit::wait::until_async("the failure to be counted", testkit::wait::LONG, || async {
            let load = Arc::clone(&backend.endpoints.load().endpoints()[0].load);
            if load.failures() == 1 { Ok(()) } else { Err(format!("{} failures", load.failures())) }
        })
        .await;
    });
}

#[test]
fn a_draining_instance_says_goaway_and_its_calls_end_well() {
    test(async {
        let (go, gate) = tokio::sync::watch::channel(false);
        let (at, _) = app(move |_, mut respond: h2::server::SendResponse<Bytes>| {
            let mut gate = gate.clone();
            async move {
                gate.wait_for(|open| *open).await.unwrap();
                respond.send_response(Response::new(()), true).unwrap();
            }
        })
        .await;
        let world = World::new();
        let backend = world.publish(Protocol::Http2, vec![plain(at)]);
        let sidecar = world.client(|_| {});
        let stream = TcpStream::connect(sidecar.outbound()).await.unwrap();
        let (client, connection) = h2::client::handshake(stream).await.unwrap();
        let connection = tokio::spawn(connection);
        let mut client = client.ready().await.unwrap();
        let (answer, _) = client.send_request(request("GET", "/"), true).unwrap();
        testkit::wait::until_async("the call to arrive", testkit::wait::LONG, || async {
            let load = Arc::clone(&backend.endpoints.load().endpoints()[0].load);
            if load.in_flight() == 1 { Ok(()) } else { Err("not yet".to_owned()) }
        })
        .await;
        sidecar.drain(std::time::Duration::from_secs(20));
        testkit::wait::until_async("GOAWAY", testkit::wait::LONG, || async {
            let refused = client.clone().ready().await.is_err();
            if refused { Ok(()) } else { Err("new calls are still taken".to_owned()) }
        })
        .await;
        go.send(true).unwrap();
        assert_eq!(answer.await.unwrap().status(), 200);
        drop(client);
        connection.await.unwrap().unwrap();
        assert_eq!(sidecar.ended(), 0);
    });
}

/// An application that answers before it has read the request, as nginx and many gRPC servers do, is no reason to end a
/// connection: the rest of the request was on its way. (`h2` forgives 1,024 such frames in the life of a connection.)
#[tokio::test(flavor = "multi_thread")]
async fn requests_that_end_after_their_answers_break_no_connection() {
    let (app, _) = app(|_request, mut respond| async move {
        respond.send_response(Response::new(()), true).unwrap();
    })
    .await;
    let world = World::new();
    let mut at = None;
    let _client = world.client(|settings| at = Some(crate::world::listener(settings)));
    world.publish(Protocol::Http2, vec![plain(app)]);
    tokio::task::spawn_blocking(move || answered_early(at.unwrap(), 1_200)).await.unwrap();
}

/// So many requests on one connection, each of which ends after the whole answer has come.
fn answered_early(at: SocketAddr, requests: u32) {
    const HEADERS: u8 = 1;
    const GOAWAY: u8 = 7;
    let frame = |kind: u8, flags: u8, stream: u32, payload: &[u8]| {
        let length = (payload.len() as u32).to_be_bytes();
        [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
    };
    let take = |raw: &testkit::raw::Raw, length: usize| {
        let mut bytes = vec![0; length];
        raw.stream().read_exact(&mut bytes).unwrap();
        bytes
    };
    let mut raw = testkit::raw::Raw::connect(at);
    raw.send("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").send(frame(4, 0, 0, &[])).send(frame(4, 1, 0, &[]));
    for request in 0..requests {
        let stream = 2 * request + 1;
        // POST, http, `/` from the static table, `:authority: cart`; the end of the headers and not of the stream.
        raw.send(frame(HEADERS, 4, stream, b"\x83\x86\x84\x01\x04cart"));
        loop {
            let header = take(&raw, 9);
            let payload = take(&raw, u32::from_be_bytes([0, header[0], header[1], header[2]]) as usize);
            let (kind, flags) = (header[3], header[4]);
            assert_ne!(kind, GOAWAY, "after {request} requests: {}", payload.escape_ascii());
            if header[5..] == stream.to_be_bytes() && matches!(kind, 0 | HEADERS) && flags & 1 == 1 {
                assert!(kind != HEADERS || payload[0] == 0x88, "not 200");
                break;
            }
        }
        raw.send(frame(0, 1, stream, b"late"));
    }
}
