use super::*;
use crate::h1::Asked;
use crate::settings::Limits;

fn request(head: &str, edit: &RequestEdit<'_>) -> String {
    let mut request = Request::default();
    let taken = request.parse(head.as_bytes(), &Limits::default());
    assert_eq!(taken, Ok(Some(head.len())), "{head:?}");
    let mut out = Vec::new();
    request.forward(edit, &mut out);
    String::from_utf8(out).unwrap()
}

fn response(asked: Asked, head: &str, edit: &ResponseEdit<'_>) -> String {
    let mut response = Response::default();
    let taken = response.parse(head.as_bytes(), asked, &Limits::default());
    assert_eq!(taken, Ok(Some(head.len())), "{head:?}");
    let mut out = Vec::new();
    response.forward(edit, &mut out);
    String::from_utf8(out).unwrap()
}

fn edits(set: &[(&str, &str)], add: &[(&str, &str)], remove: &[&str]) -> HeaderEdits {
    let pairs = |pairs: &[(&str, &str)]| pairs.iter().map(|(n, v)| ((*n).into(), (*v).into())).collect();
    HeaderEdits { set: pairs(set), add: pairs(add), remove: remove.iter().map(|n| (*n).into()).collect() }
}

#[test]
fn nothing_changes_without_need() {
    let head = "POST /a?b HTTP/1.1\r\nhOsT: a\r\nX-B:  c \t\r\nx-b: d\r\nContent-Length: 3\r\nheddle-x: 1\r\n\r\n";
    assert_eq!(request(head, &RequestEdit::default()), head);
    let head = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: Chunked\r\nTrailer: x\r\nExpect: 100-continue\r\n\r\n";
    assert_eq!(request(head, &RequestEdit::default()), head);
    let head = "HTTP/1.1 299 So so\r\nServer: x\r\nset-cookie: a\r\nSet-Cookie: b\r\nContent-Length: 3\r\n\r\n";
    let edit = ResponseEdit { framing: Framing::Length(3), ..ResponseEdit::default() };
    assert_eq!(response(Asked::default(), head, &edit), head);
}

#[test]
fn hop_by_hop_fields_go() {
    let head = "GET / HTTP/1.1\r\nConnection: close, X-Hop\r\nHost: a\r\nX-Hop: 1\r\nKeep-Alive: 5\r\nA: 1\r\n\
                Proxy-Connection: x\r\nProxy-Authorization: secret\r\nTE: gzip\r\nUpgrade: h2c\r\nTrailer: x\r\nx-hop: 2\r\n\r\n";
    assert_eq!(request(head, &RequestEdit::default()), "GET / HTTP/1.1\r\nHost: a\r\nA: 1\r\n\r\n");
    let head = "GET / HTTP/1.1\r\nHost: a\r\nProxy-Authorization: p\r\n\r\n";
    let chained = RequestEdit { proxy_credentials: true, ..RequestEdit::default() };
    assert_eq!(request(head, &chained), head);
    let head = "HTTP/1.1 200 OK\r\nConnection: keep-alive, x\r\nX: 1\r\nKeep-Alive: 5\r\nUpgrade: h2c\r\n\
                Proxy-Authenticate: x\r\nB: 2\r\nContent-Length: 1\r\n\r\n";
    let edit = ResponseEdit { framing: Framing::Length(1), ..ResponseEdit::default() };
    assert_eq!(response(Asked::default(), head, &edit), "HTTP/1.1 200 OK\r\nB: 2\r\nContent-Length: 1\r\n\r\n");
}

#[test]
fn connection_cannot_take_framing_or_host_away() {
    let head = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nCookie: c\r\n\
                Connection: host, content-length, cookie, transfer-encoding\r\n\r\n";
    let out = request(head, &RequestEdit::default());
    assert_eq!(out, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nCookie: c\r\n\r\n");
}

#[test]
fn an_expectation_of_http_1_0_means_nothing() {
    let head = "PUT / HTTP/1.0\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 1\r\n\r\n";
    let out = request(head, &RequestEdit::default());
    assert_eq!(out, "PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\n");
}

#[test]
fn te_trailers_passes() {
    let head = "GET / HTTP/1.1\r\nTE: gzip, trailers\r\nHost: a\r\nConnection: TE\r\n\r\n";
    let out = request(head, &RequestEdit::default());
    assert_eq!(out, "GET / HTTP/1.1\r\nHost: a\r\nTE: trailers\r\nConnection: TE\r\n\r\n");
}

#[test]
fn an_upgrade_passes_only_if_allowed() {
    let head = "GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n";
    assert_eq!(request(head, &RequestEdit { upgrade: true, ..RequestEdit::default() }), head);
    assert_eq!(request(head, &RequestEdit::default()), "GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    let plain = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
    assert_eq!(request(plain, &RequestEdit { upgrade: true, ..RequestEdit::default() }), plain);
    let head = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n";
    let edit = ResponseEdit { framing: Framing::Tunnel, upgrade: true, ..ResponseEdit::default() };
    assert_eq!(response(Asked::new("GET", true), head, &edit), head);
}

#[test]
fn targets_change_form_and_path() {
    let line = |head: &str, target| {
        let out = request(head, &RequestEdit { target, ..RequestEdit::default() });
        out.split_once("\r\n").map(|(line, _)| line.to_owned()).unwrap()
    };
    let absolute = "GET http://a/x?y HTTP/1.1\r\nHost: a\r\n\r\n";
    assert_eq!(line(absolute, Target::Origin), "GET /x?y HTTP/1.1");
    assert_eq!(line(absolute, Target::AsSent), "GET http://a/x?y HTTP/1.1");
    assert_eq!(line(absolute, Target::Path("/z")), "GET /z?y HTTP/1.1");
    assert_eq!(line("GET /x HTTP/1.1\r\nHost: a\r\n\r\n", Target::Path("/z")), "GET /z HTTP/1.1");
    assert_eq!(line("GET http://a HTTP/1.1\r\nHost: a\r\n\r\n", Target::Origin), "GET / HTTP/1.1");
    assert_eq!(line("GET http://a?q HTTP/1.1\r\nHost: a\r\n\r\n", Target::Origin), "GET /?q HTTP/1.1");
    assert_eq!(line("OPTIONS http://a HTTP/1.1\r\nHost: a\r\n\r\n", Target::Origin), "OPTIONS * HTTP/1.1");
    assert_eq!(line("OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n", Target::Origin), "OPTIONS * HTTP/1.1");
    assert_eq!(line("CONNECT a:1 HTTP/1.1\r\nHost: a\r\n\r\n", Target::Origin), "CONNECT a:1 HTTP/1.1");
    assert_eq!(line("GET /x HTTP/1.0\r\nHost: a\r\n\r\n", Target::Origin), "GET /x HTTP/1.1");
}

#[test]
fn host_is_rewritten_in_place() {
    let head = "GET / HTTP/1.1\r\nA: 1\r\nHOST:old:80 \r\nB: 2\r\n\r\n";
    let to = |host| RequestEdit { host, ..RequestEdit::default() };
    assert_eq!(request(head, &to(Some("new"))), "GET / HTTP/1.1\r\nA: 1\r\nHOST: new\r\nB: 2\r\n\r\n");
    assert_eq!(request(head, &to(None)), head);
    let absolute = "GET http://one/ HTTP/1.1\r\nHost: two\r\n\r\n";
    assert_eq!(request(absolute, &to(None)), "GET / HTTP/1.1\r\nHost: one\r\n\r\n");
    let old = "GET / HTTP/1.0\r\nA: 1\r\n\r\n";
    assert_eq!(request(old, &to(Some("new"))), "GET / HTTP/1.1\r\nHost: new\r\nA: 1\r\n\r\n");
    assert_eq!(request(old, &to(None)), "GET / HTTP/1.1\r\nHost: \r\nA: 1\r\n\r\n");
    let list = [&edits(&[("host", "routed")], &[], &["host"])];
    let routed = RequestEdit { edits: &[&edits(&[("host", "routed")], &[], &[])], ..RequestEdit::default() };
    assert_eq!(request("GET / HTTP/1.1\r\nHost: a\r\n\r\n", &routed), "GET / HTTP/1.1\r\nHost: routed\r\n\r\n");
    let removed = RequestEdit { edits: &list, ..RequestEdit::default() };
    assert_eq!(request("GET / HTTP/1.1\r\nHost: a\r\n\r\n", &removed), "GET / HTTP/1.1\r\nHost: a\r\n\r\n");
}

#[test]
fn edits_apply_in_order() {
    let head = "GET / HTTP/1.1\r\nHost: a\r\nX-A: 1\r\nx-b: 2\r\nX-a: 3\r\nX-C: 4\r\n\r\n";
    let rule = edits(&[("x-a", "set"), ("x-d", "rule")], &[("x-b", "added"), ("x-e", "gone")], &["x-c"]);
    let backend = edits(&[("x-d", "backend")], &[], &["x-e"]);
    let add = [("heddle-y", b"1".as_slice())];
    let edit = RequestEdit { edits: &[&rule, &backend], add: &add, ..RequestEdit::default() };
    let expected =
        "GET / HTTP/1.1\r\nHost: a\r\nx-b: 2\r\nx-a: set\r\nx-b: added\r\nx-d: backend\r\nheddle-y: 1\r\n\r\n";
    assert_eq!(request(head, &edit), expected);
}

#[test]
fn edits_cannot_touch_framing() {
    let head = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\n";
    let sly =
        edits(&[("content-length", "5"), ("Connection", "close")], &[("transfer-encoding", "chunked")], &["host"]);
    assert_eq!(request(head, &RequestEdit { edits: &[&sly], ..RequestEdit::default() }), head);
    let head = "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n";
    let edit = ResponseEdit { framing: Framing::Length(3), edits: &[&sly], ..ResponseEdit::default() };
    assert_eq!(response(Asked::default(), head, &edit), head);
}

#[test]
fn the_meshs_own_fields_are_stripped() {
    let head = "GET / HTTP/1.1\r\nHost: a\r\nHeddle-Load: 1\r\nA: b\r\nheddle-reason: x\r\n\r\n";
    let edit = RequestEdit { strip: true, ..RequestEdit::default() };
    assert_eq!(request(head, &edit), "GET / HTTP/1.1\r\nHost: a\r\nA: b\r\n\r\n");
}

#[test]
fn responses_suit_the_client() {
    let to = |framing, connection| ResponseEdit { framing, connection, ..ResponseEdit::default() };
    let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: x\r\n\r\n";
    let get = Asked::default();
    assert_eq!(response(get, chunked, &to(Framing::Chunked, Connection::Default)), chunked);
    let closed = "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n";
    assert_eq!(response(get, chunked, &to(Framing::UntilClose, Connection::Close)), closed);
    let old = "HTTP/1.0 200 OK\r\nA: b\r\n\r\n";
    let modern = "HTTP/1.1 200 OK\r\nA: b\r\nTransfer-Encoding: chunked\r\n\r\n";
    assert_eq!(response(get, old, &to(Framing::Chunked, Connection::Default)), modern);
    let kept = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: keep-alive\r\n\r\n";
    let plain = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n";
    assert_eq!(response(get, plain, &to(Framing::Length(2), Connection::KeepAlive)), kept);
    let head = Asked::new("HEAD", false);
    assert_eq!(response(head, plain, &to(Framing::None, Connection::Default)), plain);
    let empty = "HTTP/1.1 204 No Content\r\nContent-Length: 0\r\nA: b\r\n\r\n";
    let out = response(get, empty, &to(Framing::None, Connection::Default));
    assert_eq!(out, "HTTP/1.1 204 No Content\r\nA: b\r\n\r\n");
    let connect = Asked::new("CONNECT", false);
    let out =
        response(connect, "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n", &to(Framing::Tunnel, Connection::Default));
    assert_eq!(out, "HTTP/1.1 200 OK\r\n\r\n");
}

#[test]
fn status_lines_are_completed() {
    let edit = ResponseEdit { framing: Framing::Chunked, ..ResponseEdit::default() };
    let out = response(Asked::default(), "HTTP/1.1 200\r\nTransfer-Encoding: chunked\r\n\r\n", &edit);
    assert_eq!(out, "HTTP/1.1 200 \r\nTransfer-Encoding: chunked\r\n\r\n");
    let mut head = Response::default();
    let raw = b"HTTP/1.0 200 Gr\xfc\xdfe\r\nContent-Length: 0\r\n\r\n";
    assert_eq!(head.parse(raw, Asked::default(), &Limits::default()), Ok(Some(raw.len())));
    let mut out = Vec::new();
    head.forward(&ResponseEdit { framing: Framing::Length(0), ..ResponseEdit::default() }, &mut out);
    assert_eq!(out, b"HTTP/1.1 200 Gr\xfc\xdfe\r\nContent-Length: 0\r\n\r\n");
}
