use super::*;
use crate::h1::Asked;
use crate::settings::Limits;

fn request(head: &str) -> Request {
    let mut request = Request::default();
    assert_eq!(request.parse(head.as_bytes(), &Limits::default()), Ok(Some(head.len())));
    request
}

fn pairs(map: &HeaderMap) -> Vec<(&str, &str)> {
    map.iter().map(|(name, value)| (name.as_str(), value.to_str().unwrap())).collect()
}

fn parts(method: &str, uri: &str, fields: &[(&str, &str)]) -> http::request::Parts {
    let builder = http::Request::builder().method(method).uri(uri);
    let builder = fields.iter().fold(builder, |builder, (name, value)| builder.header(*name, *value));
    builder.body(()).unwrap().into_parts().0
}

fn written(parts: &http::request::Parts, framing: Framing) -> Result<String, Problem> {
    let mut out = Vec::new();
    write_request(parts, None, framing, &mut out)?;
    Ok(String::from_utf8(out).unwrap())
}

#[test]
fn requests_go_to_http_2() {
    let head = request(
        "POST /a?b HTTP/1.1\r\nHost: x:80\r\nX-A: 1\r\nX-A: 2\r\nConnection: close, X-Hop, TE\r\nX-Hop: 3\r\nTE: trailers\r\n\
         Keep-Alive: 1\r\nExpect: 100-continue\r\nTransfer-Encoding: chunked\r\nUpgrade: h2c\r\nheddle-x: 1\r\nheddle-load: 1\r\nProxy-Authorization: s\r\n\r\n",
    );
    let out = head.to_parts(None, None, true).unwrap();
    assert_eq!((out.method.as_str(), out.uri.to_string().as_str()), ("POST", "http://x:80/a?b"));
    assert_eq!(pairs(&out.headers), [("x-a", "1"), ("x-a", "2"), ("expect", "100-continue"), ("te", "trailers")]);
    let moved = head.to_parts(Some("y"), Some("/z"), false).unwrap();
    assert_eq!(moved.uri.to_string(), "http://y/z?b");
    assert_eq!(moved.headers["heddle-x"], "1");
    assert!(!moved.headers.contains_key("heddle-load"), "it goes no further in any case");
    let connect = request("CONNECT x:1 HTTP/1.1\r\nHost: x\r\n\r\n").to_parts(None, None, true).unwrap();
    assert_eq!((connect.uri.to_string().as_str(), connect.uri.scheme()), ("x:1", None));
}

#[test]
fn responses_go_to_http_2() {
    let mut head = Response::default();
    let text = "HTTP/1.1 200 Fine\r\nContent-Length: 2\r\nConnection: x\r\nX: 1\r\nSet-Cookie: a\r\nSet-Cookie: b\r\nheddle-x: 1\r\n\r\n";
    assert_eq!(head.parse(text.as_bytes(), Asked::default(), &Limits::default()), Ok(Some(text.len())));
    let out = head.to_parts(true).unwrap();
    assert_eq!(out.status, 200);
    assert_eq!(pairs(&out.headers), [("content-length", "2"), ("set-cookie", "a"), ("set-cookie", "b")]);
}

#[test]
fn requests_come_from_http_2() {
    let head = parts(
        "GET",
        "http://h:8/p?q",
        &[
            ("cookie", "a=1"),
            ("x", "1"),
            ("cookie", "b=2"),
            ("te", "trailers"),
            ("connection", "x"),
            ("content-length", "7"),
        ],
    );
    let expected =
        "GET /p?q HTTP/1.1\r\nhost: h:8\r\ncookie: a=1; b=2\r\nx: 1\r\nte: trailers\r\nconnection: TE\r\n\r\n";
    assert_eq!(written(&head, Framing::None).as_deref(), Ok(expected));
    let head = parts("PUT", "http://h/", &[("content-length", "7")]);
    assert_eq!(
        written(&head, Framing::Length(7)).as_deref(),
        Ok("PUT / HTTP/1.1\r\nhost: h\r\ncontent-length: 7\r\n\r\n")
    );
    assert_eq!(
        written(&head, Framing::Chunked).as_deref(),
        Ok("PUT / HTTP/1.1\r\nhost: h\r\ntransfer-encoding: chunked\r\n\r\n")
    );
    let head = parts("GET", "/p", &[("host", "h")]);
    assert_eq!(written(&head, Framing::None).as_deref(), Ok("GET /p HTTP/1.1\r\nhost: h\r\n\r\n"));
    let head = parts("CONNECT", "h:1", &[]);
    assert_eq!(written(&head, Framing::None).as_deref(), Ok("CONNECT h:1 HTTP/1.1\r\nhost: h:1\r\n\r\n"));
    let mut out = Vec::new();
    write_request(&parts("GET", "http://h/", &[]), Some("other"), Framing::None, &mut out).unwrap();
    assert_eq!(out, b"GET / HTTP/1.1\r\nhost: other\r\n\r\n");
}

#[test]
fn what_http_1_would_read_otherwise_is_refused() {
    for (method, uri, fields) in [
        ("GET", "http://u:p@h/", [("a", "b")]),
        ("GET", "http://h/", [("host", "other")]),
        ("GET", "/", [("host", "a b")]),
        ("GET", "*", [("host", "a")]),
        ("GET", "h:80", [("host", "h:80")]),
    ] {
        assert!(written(&parts(method, uri, &fields), Framing::None).is_err(), "{method} {uri}");
    }
}

#[test]
fn framing_comes_from_http_2() {
    let of = |method, fields: &[(&str, &str)], ended| request_framing(&parts(method, "http://h/", fields), ended);
    assert_eq!(of("GET", &[], true), Ok(Framing::None));
    assert_eq!(of("POST", &[], false), Ok(Framing::Chunked));
    assert_eq!(of("POST", &[("content-length", "3")], false), Ok(Framing::Length(3)));
    assert_eq!(of("POST", &[("content-length", "0")], true), Ok(Framing::Length(0)));
    assert!(of("POST", &[("content-length", "3")], true).is_err());
    assert!(of("POST", &[("content-length", "3"), ("content-length", "3")], false).is_err());
    assert!(of("POST", &[("content-length", "+3")], false).is_err());

    let answer = |status: u16, fields: &[(&str, &str)], method, ended| {
        let builder = http::Response::builder().status(status);
        let builder = fields.iter().fold(builder, |builder, (name, value)| builder.header(*name, *value));
        response_framing(&builder.body(()).unwrap().into_parts().0, method, ended)
    };
    assert_eq!(answer(200, &[], "GET", false), Ok(Framing::Chunked));
    assert_eq!(answer(200, &[], "GET", true), Ok(Framing::Length(0)));
    assert_eq!(answer(200, &[("content-length", "2")], "GET", false), Ok(Framing::Length(2)));
    assert_eq!(answer(200, &[("content-length", "2")], "HEAD", true), Ok(Framing::None));
    assert_eq!(answer(304, &[("content-length", "2")], "GET", true), Ok(Framing::None));
    assert_eq!(answer(204, &[], "GET", true), Ok(Framing::None));
    assert_eq!(answer(200, &[], "CONNECT", false), Ok(Framing::Tunnel));
    let short = answer(200, &[("content-length", "2")], "GET", true);
    assert_eq!(short.unwrap_err().reason, Reason::UpstreamProtocol);
}

#[test]
fn responses_come_from_http_2() {
    let write = |framing, connection, fields: &[(&str, &str)]| {
        let builder = http::Response::builder().status(200);
        let builder = fields.iter().fold(builder, |builder, (name, value)| builder.header(*name, *value));
        let mut out = Vec::new();
        write_response(&builder.body(()).unwrap().into_parts().0, framing, connection, &mut out);
        String::from_utf8(out).unwrap()
    };
    let length = [("content-length", "2"), ("x", "1")];
    assert_eq!(
        write(Framing::Length(2), Connection::Default, &length),
        "HTTP/1.1 200 OK\r\nx: 1\r\ncontent-length: 2\r\n\r\n"
    );
    assert_eq!(
        write(Framing::None, Connection::Default, &length),
        "HTTP/1.1 200 OK\r\ncontent-length: 2\r\nx: 1\r\n\r\n"
    );
    let closed = "HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n";
    assert_eq!(write(Framing::UntilClose, Connection::Close, &[]), closed);
    let chunked = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\nconnection: keep-alive\r\n\r\n";
    assert_eq!(write(Framing::Chunked, Connection::KeepAlive, &[]), chunked);
}

#[test]
fn trailers_cross_both_ways_without_what_steers() {
    let mut map = HeaderMap::new();
    map.insert("grpc-status", HeaderValue::from_static("0"));
    map.insert("content-length", HeaderValue::from_static("9"));
    map.insert("heddle-load", HeaderValue::from_static("9"));
    let fields = Fields::from_map(&map);
    assert_eq!(fields.get("grpc-status"), Some(b"0".as_slice()));
    assert_eq!(pairs(&fields.to_map().unwrap()), [("grpc-status", "0")]);
    let mut out = Vec::new();
    crate::h1::Encoder::new(Framing::Chunked).finish(Some(&fields), &mut out).unwrap();
    assert_eq!(out, b"0\r\ngrpc-status: 0\r\n\r\n");
}

#[test]
fn edits_apply_to_maps() {
    let mut map = HeaderMap::new();
    for (name, value) in [("x-a", "1"), ("x-a", "2"), ("x-b", "3"), ("x-c", "4"), ("content-length", "5")] {
        map.append(name, HeaderValue::from_static(value));
    }
    let edits = HeaderEdits {
        set: vec![("x-a".into(), "set".into()), ("connection".into(), "close".into())],
        add: vec![("x-b".into(), "added".into())],
        remove: vec!["x-c".into(), "content-length".into()],
    };
    apply(&edits, &mut map);
    assert_eq!(pairs(&map), [("x-a", "set"), ("x-b", "3"), ("x-b", "added"), ("content-length", "5")]);
}

#[test]
fn the_engine_sees_http_2_heads() {
    use engine::RequestHead as _;
    let parts = parts("GET", "http://h:8/p?q", &[("x", " 1 ")]);
    let head = Http2Head(&parts);
    assert_eq!((head.method(), head.path(), head.query(), head.authority()), ("GET", "/p", Some("q"), "h:8"));
    assert_eq!(head.header("x"), Some(b"1".as_slice()));
}
