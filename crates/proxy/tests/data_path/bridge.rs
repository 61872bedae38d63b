//! A client and an instance that do not speak the same HTTP.

use bytes::Bytes;
use engine::Protocol;
use http::{HeaderMap, Request, Response};
use testkit::raw::{Raw, RawServer};

use crate::http2::{app, call, client, read, request, test};
use crate::world::World;

#[test]
fn http2_clients_reach_an_http1_instance() {
    let application = RawServer::start(|_, mut raw| {
        while let Some(head) = raw.next_head() {
            let head = head.to_ascii_lowercase();
            if head.starts_with("post /sized ") {
                assert!(head.contains("content-length: 5\r\n"), "{head}");
                raw.expect("hello");
                raw.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\nX-Case: Kept\r\n\r\nok");
            } else if head.starts_with("post /chunks ") {
                assert!(head.contains("transfer-encoding: chunked\r\n"), "{head}");
                let body = raw.read_through("0\r\n\r\n");
                assert_eq!(body, b"5\r\nhello\r\n0\r\n\r\n");
                raw.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nX-Sum: 3\r\n\r\n");
            } else {
                assert!(head.starts_with("get / http/1.1\r\nhost: cart\r\n"), "{head}");
                raw.send("HTTP/1.1 204 No Content\r\n\r\n");
            }
        }
    });
    let world = World::new();
    let (sidecar, _server) = world.pair(application.address(), Protocol::Http1);
    test(async {
        let client = client(sidecar.outbound()).await;
        let (head, body, _) = call(&client, request("GET", "/"), b"").await;
        assert_eq!((head.status().as_u16(), body.len()), (204, 0));
        let mut sized = request("POST", "/sized");
        sized.headers_mut().insert("content-length", "5".parse().unwrap());
        let (head, body, _) = call(&client, sized, b"hello").await;
        assert_eq!((head.status().as_u16(), body.as_slice()), (200, b"ok".as_slice()));
        assert_eq!(head.headers()["x-case"], "Kept");
        let (head, body, trailers) = call(&client, request("POST", "/chunks"), b"hello").await;
        assert_eq!((head.status().as_u16(), body.as_slice()), (200, b"abc".as_slice()));
        assert_eq!(trailers.unwrap()["x-sum"], "3");
    });
}

#[test]
fn http1_clients_reach_an_http2_instance() {
    test(async {
        let (at, _) =
            app(|request: Request<h2::RecvStream>, mut respond: h2::server::SendResponse<Bytes>| async move {
                let (parts, mut recv) = request.into_parts();
                assert_eq!(parts.uri.authority().unwrap(), "cart");
                assert!(parts.headers.get("connection").is_none());
                let got = read(&mut recv).await;
                let response = Response::builder().status(201).header("x-path", parts.uri.path()).body(()).unwrap();
                let mut send = respond.send_response(response, false).unwrap();
                send.send_data(Bytes::from(got), false).unwrap();
                send.send_trailers(HeaderMap::from_iter([("x-sum".parse().unwrap(), "5".parse().unwrap())])).unwrap();
            })
            .await;
        let world = World::new();
        let (sidecar, _server) = world.pair(at, Protocol::Http2);
        let outbound = sidecar.outbound();
        tokio::task::spawn_blocking(move || {
            let mut raw = Raw::connect(outbound);
            for _ in 0..2 {
                raw.send("POST http://cart/p HTTP/1.1\r\nHost: cart\r\nConnection: keep-alive\r\nContent-Length: 5\r\n\r\nhello");
                let head = raw.read_head().to_ascii_lowercase();
                assert!(head.starts_with("http/1.1 201 ") && head.contains("x-path: /p\r\n"), "{head}");
                assert!(head.contains("transfer-encoding: chunked\r\n"), "{head}");
                let body = String::from_utf8(raw.read_through("\r\n\r\n")).unwrap();
                assert_eq!(body, "5\r\nhello\r\n0\r\nx-sum: 5\r\n\r\n");
            }
        })
        .await
        .unwrap();
    });
}

#[test]
fn the_client_decides_where_nothing_was_declared() {
    let application = RawServer::start(|_, mut raw| {
        let head = raw.read_head();
        assert!(head.starts_with("GET /one HTTP/1.1\r\n"), "{head}");
        raw.send("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\none");
    });
    let world = World::new();
    let (sidecar, _server) = world.pair(application.address(), Protocol::Auto);
    let mut raw = sidecar.connect();
    raw.send("GET http://cart/one HTTP/1.1\r\nHost: cart\r\n\r\n").read_head();
    raw.expect("one");
    test(async {
        let (at, _) = app(|_, mut respond: h2::server::SendResponse<Bytes>| async move {
            respond.send_response(Response::new(()), true).unwrap();
        })
        .await;
        let world = World::new();
        let (sidecar, _server) = world.pair(at, Protocol::Auto);
        let client = client(sidecar.outbound()).await;
        assert_eq!(call(&client, request("GET", "/"), b"").await.0.status(), 200);
    });
}
