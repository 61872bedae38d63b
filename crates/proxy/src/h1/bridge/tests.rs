use engine::edit::HeaderEdits;

use super::*;
use crate::h1::{Asked, Receipt};
use crate::h2::hpack::Decoder;
use crate::settings::Limits;

fn request(head: &str) -> Request {
    let mut request = Request::default();
    assert_eq!(request.parse(head.as_bytes(), &Limits::default()), Ok(Some(head.len())));
    request
}

/// A head that comes over HTTP/2.
fn over_http2(fields: &[(&str, &str)], ended: bool) -> Request {
    let mut request = Request::default();
    let receipt = request.receive(&Limits::default(), ended, |block| {
        fields.iter().for_each(|(name, value)| block.field(name.as_bytes(), value.as_bytes(), false));
        Ok::<(), ()>(())
    });
    assert_eq!(receipt, Ok(Receipt::Whole));
    request
}

fn answer_over_http2(fields: &[(&str, &str)], ended: bool) -> Response {
    let mut response = Response::default();
    let receipt = response.receive(&Limits::default(), ended, false, |block| {
        fields.iter().for_each(|(name, value)| block.field(name.as_bytes(), value.as_bytes(), false));
        Ok::<(), ()>(())
    });
    assert_eq!(receipt, Ok(Receipt::Whole));
    response
}

/// The fields of a block, `!` behind the name of one that enters no table.
fn fields(encode: impl FnOnce(&mut Encoder, &mut Vec<u8>)) -> Vec<(String, String)> {
    let mut out = Vec::new();
    encode(&mut Encoder::new(), &mut out);
    let mut fields = Vec::new();
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    let take = &mut |name: &[u8], value: &[u8], never| {
        fields.push((text(name) + if never { "!" } else { "" }, text(value)));
    };
    Decoder::new(4096).decode(&out, take).unwrap();
    fields
}

fn encoded(head: &Request, edit: &RequestEdit<'_>) -> Vec<(String, String)> {
    fields(|encoder, out| head.encode(edit, encoder, out))
}

fn written(head: &Request, edit: &RequestEdit<'_>) -> String {
    let mut out = Vec::new();
    head.forward(edit, &mut out);
    String::from_utf8(out).unwrap()
}

fn pairs<'a>(pairs: &[(&'a str, &'a str)]) -> Vec<(String, String)> {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

fn plain() -> RequestEdit<'static> {
    RequestEdit { strip: true, ..RequestEdit::default() }
}

#[test]
fn requests_go_to_http_2() {
    let head = request(
        "POST /a?b HTTP/1.1\r\nHost: x:80\r\nX-A: 1\r\nX-A: 2\r\nConnection: close, X-Hop, TE\r\nX-Hop: 3\r\nTE: trailers\r\n\
         Keep-Alive: 1\r\nExpect: 100-continue\r\nTransfer-Encoding: chunked\r\nUpgrade: h2c\r\nheddle-x: 1\r\nheddle-load: 1\r\nProxy-Authorization: s\r\n\r\n",
    );
    let expected = [
        (":method", "POST"),
        (":scheme", "http"),
        (":path", "/a?b"),
        (":authority", "x:80"),
        ("x-a", "1"),
        ("x-a", "2"),
        ("expect", "100-continue"),
        ("te", "trailers"),
    ];
    assert_eq!(encoded(&head, &plain()), pairs(&expected));
    let moved = encoded(&head, &RequestEdit { host: Some("y"), target: Target::Path("/z"), ..Default::default() });
    assert!(moved.contains(&(":path".into(), "/z?b".into())) && moved.contains(&(":authority".into(), "y".into())));
    assert!(moved.contains(&("heddle-x".into(), "1".into())));
    assert!(!moved.iter().any(|(name, _)| name == "heddle-load"), "it goes no further in any case");
    for (line, path) in
        [("GET http://h", "/"), ("GET http://h?q", "/?q"), ("OPTIONS http://h", "*"), ("OPTIONS *", "*")]
    {
        let head = request(&format!("{line} HTTP/1.1\r\nHost: h\r\n\r\n"));
        assert!(encoded(&head, &plain()).contains(&(":path".into(), path.into())), "{line}");
    }
    // A new path that the old one begins with.
    let head = request("GET /ab?q HTTP/1.1\r\nHost: h\r\n\r\n");
    let moved = encoded(&head, &RequestEdit { target: Target::Path("/a"), ..Default::default() });
    assert!(moved.contains(&(":path".into(), "/a?q".into())));
}

#[test]
fn heads_of_http_2_go_on_as_such() {
    let head = over_http2(
        &[
            (":method", "GET"),
            (":scheme", "https"),
            (":path", "/p?q"),
            (":authority", "h"),
            ("host", "h"),
            ("cookie", "a=1"),
            ("heddle-x", "1"),
            ("te", "trailers"),
        ],
        true,
    );
    let expected = [
        (":method", "GET"),
        (":scheme", "https"),
        (":path", "/p?q"),
        (":authority", "h"),
        ("cookie", "a=1"),
        ("te", "trailers"),
    ];
    assert_eq!(encoded(&head, &plain()), pairs(&expected));
}

#[test]
fn what_must_not_be_indexed_goes_on_as_such() {
    let mut head = Request::default();
    let receipt = head.receive(&Limits::default(), true, |block| {
        for (name, value) in [(":method", "GET"), (":scheme", "http"), (":path", "/")] {
            block.field(name.as_bytes(), value.as_bytes(), false);
        }
        block.field(b"authorization", b"s", true);
        Ok::<(), ()>(())
    });
    assert_eq!(receipt, Ok(Receipt::Whole));
    assert!(encoded(&head, &plain()).contains(&("authorization!".into(), "s".into())));
    let answer = answer_over_http2(&[(":status", "200"), ("heddle-load", "9 9")], true);
    let edit = ResponseEdit { add: &[("heddle-load", b"1 2")], ..Default::default() };
    let sent = fields(|encoder, out| answer.encode(&edit, encoder, out));
    assert_eq!(sent, pairs(&[(":status", "200"), ("heddle-load!", "1 2")]));
}

#[test]
fn responses_go_to_http_2() {
    let mut head = Response::default();
    let text = "HTTP/1.1 200 Fine\r\nContent-Length: 2\r\nConnection: x\r\nX: 1\r\nSet-Cookie: a\r\nSet-Cookie: b\r\nheddle-x: 1\r\n\r\n";
    assert_eq!(head.parse(text.as_bytes(), Asked::default(), &Limits::default()), Ok(Some(text.len())));
    let edit = ResponseEdit { strip: true, ..Default::default() };
    let sent = fields(|encoder, out| head.encode(&edit, encoder, out));
    let expected = [(":status", "200"), ("content-length", "2"), ("set-cookie", "a"), ("set-cookie", "b")];
    assert_eq!(sent, pairs(&expected));
}

#[test]
fn requests_come_from_http_2() {
    let fields = [
        (":method", "GET"),
        (":scheme", "http"),
        (":path", "/p?q"),
        (":authority", "h:8"),
        ("cookie", "a=1"),
        ("x", "1"),
        ("cookie", "b=2"),
        ("te", "trailers"),
    ];
    let head = over_http2(&fields, true);
    let expected =
        "GET /p?q HTTP/1.1\r\nhost: h:8\r\ncookie: a=1; b=2\r\nx: 1\r\nte: trailers\r\nconnection: TE\r\n\r\n";
    assert_eq!(written(&head, &plain()), expected);
    let put = [(":method", "PUT"), (":scheme", "http"), (":path", "/"), (":authority", "h"), ("content-length", "7")];
    let head = over_http2(&put, false);
    assert_eq!(written(&head, &plain()), "PUT / HTTP/1.1\r\nhost: h\r\ncontent-length: 7\r\n\r\n");
    let head = over_http2(&put[..4], false);
    assert_eq!(written(&head, &plain()), "PUT / HTTP/1.1\r\nhost: h\r\ntransfer-encoding: chunked\r\n\r\n");
    let head = over_http2(&[(":method", "GET"), (":path", "/p"), (":scheme", "http"), ("host", "h")], true);
    assert_eq!(written(&head, &plain()), "GET /p HTTP/1.1\r\nhost: h\r\n\r\n");
    let edit = RequestEdit { host: Some("other"), target: Target::Path("/new"), ..plain() };
    assert_eq!(written(&head, &edit), "GET /new HTTP/1.1\r\nhost: other\r\n\r\n");
    let proxied = RequestEdit { target: Target::AsSent, ..plain() };
    assert_eq!(written(&head, &proxied), "GET http://h/p HTTP/1.1\r\nhost: h\r\n\r\n");
}

#[test]
fn responses_come_from_http_2() {
    let write = |framing, connection, fields: &[(&str, &str)]| {
        let fields = [&[(":status", "200")], fields].concat();
        let mut out = Vec::new();
        let edit = ResponseEdit { framing, connection, ..Default::default() };
        answer_over_http2(&fields, false).forward(&edit, &mut out);
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
fn trailers_go_on_without_what_steers() {
    let mut trailers = Fields::default();
    let receipt = trailers.receive(&Limits::default(), |block| {
        for (name, value) in [("grpc-status", "0"), ("content-length", "9"), ("heddle-load", "9"), ("heddle-x", "1")] {
            block.field(name.as_bytes(), value.as_bytes(), false);
        }
        Ok::<(), ()>(())
    });
    assert_eq!(receipt, Ok(Receipt::Whole));
    assert_eq!(trailers.get("grpc-status"), Some(b"0".as_slice()));
    assert_eq!(fields(|encoder, out| trailers.encode(encoder, out)), pairs(&[("grpc-status", "0")]));
    let mut out = Vec::new();
    crate::h1::Encoder::new(Framing::Chunked).finish(Some(&trailers), &mut out).unwrap();
    assert_eq!(out, b"0\r\ngrpc-status: 0\r\n\r\n");
}

#[test]
fn edits_apply_on_the_way_to_http_2() {
    let fields = [
        (":method", "GET"),
        (":scheme", "http"),
        (":path", "/"),
        (":authority", "h"),
        ("x-a", "1"),
        ("x-a", "2"),
        ("x-b", "3"),
        ("x-c", "4"),
        ("content-length", "5"),
    ];
    let edits = HeaderEdits {
        set: vec![("x-a".into(), "set".into()), ("connection".into(), "close".into())],
        add: vec![("x-b".into(), "added".into())],
        remove: vec!["x-c".into(), "content-length".into()],
    };
    let edit = RequestEdit { edits: &[&edits], ..plain() };
    let sent = encoded(&over_http2(&fields, false), &edit);
    let expected = [("x-b", "3"), ("content-length", "5"), ("x-a", "set"), ("x-b", "added")];
    assert_eq!(sent[4..], pairs(&expected));
}
