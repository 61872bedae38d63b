use engine::RequestHead as _;

use super::*;

fn parse(input: impl AsRef<[u8]>) -> Result<Request, Problem> {
    let mut head = Request::default();
    match head.parse(input.as_ref(), &Limits::default())? {
        Some(length) if length == input.as_ref().len() => Ok(head),
        other => panic!("took {other:?} of {} bytes", input.as_ref().len()),
    }
}

fn reason(input: impl AsRef<[u8]>) -> Option<Reason> {
    Request::default().parse(input.as_ref(), &Limits::default()).err().map(|problem| problem.reason)
}

#[test]
fn reads_a_plain_request() {
    let head = parse("GET /cart/7?x=1 HTTP/1.1\r\nHost: Cart.shop:80\r\nX-A:  b \r\n\r\n").unwrap();
    assert_eq!((head.method(), head.path(), head.query()), ("GET", "/cart/7", Some("x=1")));
    assert_eq!((head.authority(), head.target()), ("Cart.shop:80", "/cart/7?x=1"));
    assert_eq!(head.header("x-a"), Some(b"b".as_slice()));
    assert_eq!((head.framing(), head.form(), head.version()), (Framing::None, Form::Origin, Version::Http11));
    assert!(head.keep_alive() && head.upgrade().is_none());
}

#[test]
fn what_follows_a_head_is_left_alone() {
    let input = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhelloGET";
    let mut head = Request::default();
    assert_eq!(head.parse(input, &Limits::default()), Ok(Some(input.len() - 8)));
    assert_eq!(head.framing(), Framing::Length(5));
}

#[test]
fn one_empty_line_may_precede() {
    assert_eq!(parse("\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n").unwrap().path(), "/");
    for wrong in ["\r\n\r\nGET", "\n", "\rG", " GET / HTTP/1.1\r\n", "\tGET", "\r\n GET / HTTP/1.1\r\n"] {
        assert_eq!(reason(wrong), Some(Reason::BadRequest), "{wrong:?}");
    }
    assert_eq!(Request::default().parse(b"\r\n", &Limits::default()), Ok(None));
}

#[test]
fn the_absolute_form_wins_over_host() {
    let head = parse("GET http://one:8/p?q HTTP/1.1\r\nHost: two\r\n\r\n").unwrap();
    assert_eq!((head.authority(), head.path(), head.query()), ("one:8", "/p", Some("q")));
    assert!(head.host_differs());
    assert!(!parse("GET http://one/ HTTP/1.1\r\nHost: ONE\r\n\r\n").unwrap().host_differs());
    assert_eq!(parse("GET http://one HTTP/1.1\r\nHost: one\r\n\r\n").unwrap().path(), "/");
    assert_eq!(parse("OPTIONS http://one HTTP/1.1\r\nHost: one\r\n\r\n").unwrap().path(), "*");
    assert_eq!(parse("CONNECT one:1 HTTP/1.1\r\nHost: two\r\n\r\n").unwrap().authority(), "one:1");
}

#[test]
fn http_1_0_needs_no_host() {
    let head = parse("GET / HTTP/1.0\r\n\r\n").unwrap();
    assert_eq!((head.authority(), head.keep_alive()), ("", false));
    assert!(parse("GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n").unwrap().keep_alive());
}

#[test]
fn malformed_heads_are_refused() {
    let table = [
        // Line ends and whitespace.
        "GET / HTTP/1.1\nHost: a\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\n\n",
        "GET / HTTP/1.1\nHost: a\n\n",
        "GET / HTTP/1.1\rHost: a\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\rb\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nX: b\rC: d\r\n\r\n",
        "GET / HTTP/1.1\r\n Host: a\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nX: b\r\n c\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nX: b\r\n\tc\r\n\r\n",
        "GET / HTTP/1.1\r\nHost : a\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nX\t: b\r\n\r\n",
        "GET  / HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET /  HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET / HTTP/1.1 \r\nHost: a\r\n\r\n",
        "GET /a b HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET\t/ HTTP/1.1\r\nHost: a\r\n\r\n",
        // Start lines.
        "GET /\r\nHost: a\r\n\r\n",
        "GET\r\n\r\n",
        "G@T / HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET / HTTPS/1.1\r\nHost: a\r\n\r\n",
        "GET / http/1.1\r\nHost: a\r\n\r\n",
        "GET / FOO\r\nHost: a\r\n\r\n",
        "GET /\u{7f} HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET /\0 HTTP/1.1\r\nHost: a\r\n\r\n",
        "ABCDEFGHIJKLMNOPQRSTUVWXYZABCDEFG / HTTP/1.1\r\nHost: a\r\n\r\n",
        // Names and values.
        "GET / HTTP/1.1\r\nHost: a\r\n: b\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nX\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nX(y): b\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nX: b\0c\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nX: b\u{1}\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nX: b\u{7f}\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nX\0: b\r\n\r\n",
        // Hosts.
        "GET / HTTP/1.1\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a, b\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: u@a\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a/b\r\n\r\n",
        "GET http://a/ HTTP/1.1\r\n\r\n",
        "GET http://a/ HTTP/1.1\r\nHost: a b\r\n\r\n",
        "GET / HTTP/1.0\r\nHost: a\r\nHost: b\r\n\r\n",
        // Framing.
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: x\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding:\u{b}chunked\r\n\r\n",
        "POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n",
        "CONNECT a:1 HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\n",
        "CONNECT a:1 HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n",
    ];
    for input in table {
        assert_eq!(reason(input), Some(Reason::BadRequest), "{input:?}");
    }
}

#[test]
fn other_refusals_have_their_own_reasons() {
    let coded = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n";
    assert_eq!(reason(coded), Some(Reason::CodingNotSupported));
    for version in ["2.0", "1.2", "0.9", "3"] {
        let input = format!("GET / HTTP/{version}\r\nHost: a\r\n\r\n");
        assert_eq!(reason(&input), Some(Reason::VersionNotSupported), "{input:?}");
    }
}

#[test]
fn limits_hold_whole_and_in_pieces() {
    let limits = Limits { head_bytes: 200, headers: 4, target_bytes: 50, ..Limits::default() };
    let head = |target: usize, fields: usize, value: usize| {
        let mut text = format!("GET /{} HTTP/1.1\r\nHost: a\r\n", "t".repeat(target - 1));
        (1..fields).for_each(|i| text.push_str(&format!("x{i}: {}\r\n", "v".repeat(value))));
        text + "\r\n"
    };
    let fits = "GET / HTTP/1.1\r\nHost: a\r\n\r\n".len();
    let table = [
        (head(50, 4, 1), None),
        (head(51, 1, 0), Some(Reason::TargetTooLong)),
        (head(1000, 1, 0), Some(Reason::TargetTooLong)),
        (head(1, 5, 1), Some(Reason::HeadTooLarge)),
        (head(1, 2, 200 - fits - 6), None),
        (head(1, 2, 200 - fits - 5), Some(Reason::HeadTooLarge)),
        (head(1, 2, 5000), Some(Reason::HeadTooLarge)),
    ];
    for (input, expected) in table {
        let whole = Request::default().parse(input.as_bytes(), &limits);
        assert_eq!(whole.err().map(|problem| problem.reason), expected, "{} bytes", input.len());
        let mut slow = Request::default();
        let pieces =
            (1..=input.len()).map(|end| slow.parse(&input.as_bytes()[..end], &limits)).find(|a| *a != Ok(None));
        assert_eq!(pieces.unwrap().err().map(|problem| problem.reason), expected, "{} bytes in pieces", input.len());
    }
    // A head that never ends is refused as soon as it is too long.
    let mut slow = Request::default();
    let endless = format!("GET / HTTP/1.1\r\nHost: a\r\nx: {}", "v".repeat(300));
    let refused = (1..=endless.len()).find(|end| slow.parse(&endless.as_bytes()[..*end], &limits).is_err());
    assert_eq!(refused, Some(200));
}

#[test]
fn upgrades_need_all_their_parts() {
    let upgrade = |lines: &str| {
        let head = parse(format!("GET / HTTP/1.1\r\nHost: a\r\n{lines}\r\n")).unwrap();
        head.upgrade().map(str::to_owned)
    };
    assert_eq!(upgrade("Connection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n").as_deref(), Some("websocket"));
    assert_eq!(upgrade("Upgrade: websocket\r\n"), None);
    assert_eq!(upgrade("Connection: upgrade\r\n"), None);
    assert_eq!(upgrade("Connection: upgrade\r\nUpgrade: a, b\r\n"), None);
    assert_eq!(upgrade("Connection: upgrade\r\nUpgrade: a\r\nUpgrade: b\r\n"), None);
    assert_eq!(upgrade("Connection: upgrade\r\nUpgrade: a\r\nContent-Length: 1\r\n"), None);
    for to_http in ["h2c", "H2C", "h2", "HTTP/2.0", "TLS/1.2, h2c", "TLS/1.0"] {
        assert_eq!(upgrade(&format!("Connection: upgrade\r\nUpgrade: {to_http}\r\n")), None, "{to_http}");
    }
}

#[test]
fn every_value_of_a_repeated_header_is_seen() {
    let head = parse("GET / HTTP/1.1\r\nHost: a\r\nX: 1 \r\ny: 3\r\nx: 2\r\n\r\n").unwrap();
    let mut seen = Vec::new();
    head.each_value("x", &mut |value| seen.push(value.to_vec()));
    assert_eq!(seen, [b"1", b"2"]);
}

#[test]
fn a_head_can_be_reused() {
    let mut head = Request::default();
    let first = b"GET http://a/x?y HTTP/1.1\r\nHost: b\r\nConnection: close, z\r\nz: 1\r\n\r\n";
    assert_eq!(head.parse(first, &Limits::default()), Ok(Some(first.len())));
    let second = b"POST /2 HTTP/1.1\r\nHost: c\r\nContent-Length: 3\r\n\r\n";
    assert_eq!(head.parse(second, &Limits::default()), Ok(Some(second.len())));
    assert_eq!((head.path(), head.query(), head.authority()), ("/2", None, "c"));
    assert!(head.keep_alive() && !head.host_differs() && head.fields().get("z").is_none());
    assert_eq!(head.parse(&first[..20], &Limits::default()), Ok(None));
    head.reset();
    assert_eq!(head.parse(second, &Limits::default()), Ok(Some(second.len())));
}
