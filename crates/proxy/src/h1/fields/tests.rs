use super::*;

fn filled(head: &str) -> Result<Fields, Problem> {
    let mut slots = [httparse::EMPTY_HEADER; 16];
    let Ok(httparse::Status::Complete((used, found))) = httparse::parse_headers(head.as_bytes(), &mut slots) else {
        return Err(bad("httparse refused it"));
    };
    let mut fields = Fields::default();
    fields.fill(&head.as_bytes()[..used], 0, found)?;
    Ok(fields)
}

#[test]
fn keeps_names_and_trims_values() {
    let fields = filled("X-One:  a b \t\r\nx-two:\r\nX-ONE: c\r\nempty: \t \r\n\r\n").unwrap();
    let found: Vec<_> =
        fields.iter().map(|(n, v)| (n.escape_ascii().to_string(), v.escape_ascii().to_string())).collect();
    let expected = [("X-One", "a b"), ("x-two", ""), ("X-ONE", "c"), ("empty", "")];
    assert_eq!(found, expected.map(|(n, v)| (n.to_owned(), v.to_owned())));
    assert_eq!(fields.get("x-one"), Some(b"a b".as_slice()));
    assert_eq!(fields.get("empty"), Some(b"".as_slice()));
    assert_eq!(fields.get("absent"), None);
}

#[test]
fn refuses_bare_line_feeds() {
    for head in ["a: b\nc: d\r\n\r\n", "a: b\r\nc: d\n\r\n", "a: b\r\n\n", "a:\nb: c\r\n\r\n"] {
        assert!(filled(head).is_err(), "{head:?}");
    }
}

#[test]
fn classifies_in_any_case() {
    let table = [
        ("Host", Kind::Host),
        ("CONTENT-LENGTH", Kind::ContentLength),
        ("Transfer-encoding", Kind::TransferEncoding),
        ("te", Kind::Te),
        ("Trailer", Kind::Trailer),
        ("upgrade", Kind::Upgrade),
        ("Connection", Kind::Connection),
        ("keep-alive", Kind::KeepAlive),
        ("Proxy-Connection", Kind::ProxyConnection),
        ("Proxy-Authorization", Kind::ProxyCredentials),
        ("Proxy-Authenticate", Kind::ProxyCredentials),
        ("Proxy-Authentication-Info", Kind::ProxyCredentials),
        ("Expect", Kind::Expect),
        ("Heddle-Load", Kind::Load),
        ("heddle-loads", Kind::Mesh),
        ("Endpoint-Load-Metrics", Kind::Orca),
        ("heddle-", Kind::Other),
        ("heddles", Kind::Other),
        ("Hosts", Kind::Other),
        ("x-request-id", Kind::Other),
    ];
    for (name, kind) in table {
        assert_eq!(Kind::of(name.as_bytes()), kind, "{name}");
    }
}

#[test]
fn a_connection_field_cannot_nominate_what_others_rely_on() {
    let fields =
        filled("Connection: x-a, Host\r\nconnection:content-length ,authorization,X-Forwarded-For\r\n\r\n").unwrap();
    assert!(fields.nominated(b"X-A"));
    for name in ["host", "Content-Length", "Authorization", "x-forwarded-for", "x-b"] {
        assert!(!fields.nominated(name.as_bytes()), "{name}");
    }
}

#[test]
fn scanning_sees_each_byte_once_and_finds_the_end_at_any_split() {
    let head = b"GET / HTTP/1.1\r\na: b\r\n\r\n";
    for split in 0..head.len() {
        let mut scan = Scan::default();
        assert_eq!(scan.finds_end(&head[..split]), Ok(false));
        assert_eq!(scan.finds_end(head), Ok(true), "{split}");
    }
    assert!(Scan::default().finds_end(b"GET / HTTP/1.1\n").is_err());
    let mut scan = Scan::default();
    assert_eq!(scan.finds_end(b"GET / HTTP/1.1\r"), Ok(false));
    assert!(scan.in_start_line());
    assert_eq!(scan.finds_end(b"GET / HTTP/1.1\r\n"), Ok(false));
    assert!(!scan.in_start_line());
}
