use proptest::prelude::*;

use super::*;

#[test]
fn known_beginnings() {
    use Detected::{Http1, Http2, More, Opaque, Tls};
    let cases: &[(&[u8], Detected)] = &[
        (b"", More),
        (b"G", More),
        (b"GET", More),
        (b"GET ", More),
        (b"GET /", Http1),
        (b"PURGE /x HTTP/1.1\r\n", Http1),
        (b"M-SEARCH * HTTP/1.1", Http1),
        (b"OPTIONS *", More),
        (b"OPTIONS *x", Opaque),
        (b"GET http://cart/", Http1),
        (b"GET HTTPS://cart/", Http1),
        (b"GET http:", More),
        (b"GET httpx", Opaque),
        (b"CONNECT cart:80 HTTP/1.1", Http1),
        (b"CONNECT cart", More),
        (b"CONNECT cart:", More),
        (b"CONNECT [::1]:443 HTTP/1.1", Http1),
        (b"CONNECT [::1", More),
        (b"CONNECT :80", Opaque),
        (b"CONNECT {\"verbose\":false}", Opaque),
        (b"EHLO example.com\r\n", Opaque),
        (b"get key\r\n", Opaque),
        (b"*1\r\n$4\r\nPING\r\n", Opaque),
        (b"SSH-2.0-OpenSSH_9.9\r\n", Opaque),
        (b"\r\nGET / HTTP/1.1", Opaque),
        (b"\x00\x00\x00\x08\x04\xd2\x16\x2f", Opaque),
        (b"PRI", More),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r", More),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00", Http2),
        (b"PRI /x", Http1),
        (b"\x16", More),
        (b"\x16\x03\x01\x02\x00", More),
        (b"\x16\x03\x01\x02\x00\x01", Tls),
        (b"\x16\x03\x03\x02\x00\x02", Opaque),
        (b"\x16\x03\x05", Opaque),
        (b"\x16\x02", Opaque),
        (b"ABCDEFGHIJKLMNOPQRSTUVWXYZ", Opaque),
    ];
    for (bytes, expected) in cases {
        assert_eq!(detect(bytes), *expected, "{}", String::from_utf8_lossy(bytes));
    }
}

#[test]
fn a_long_host_is_judged_within_the_limit() {
    let long = format!("CONNECT {}:443 HTTP/1.1\r\n", "a".repeat(200));
    assert_eq!(detect(&long.as_bytes()[..PEEK_LIMIT - 1]), Detected::More);
    assert_eq!(detect(&long.as_bytes()[..PEEK_LIMIT]), Detected::Http1);
    for host in [54, 55, 56] {
        let edge = format!("CONNECT {}:{}", "a".repeat(host), "4".repeat(20));
        assert_eq!(detect(&edge.as_bytes()[..PEEK_LIMIT]), Detected::Http1, "host of {host}");
    }
}

/// Bytes that come near to something known, which random ones never do.
fn nearly() -> impl Strategy<Value = Vec<u8>> {
    let starts = prop::sample::select(vec![
        "",
        "GET ",
        "GET /",
        "GET ht",
        "GET https:/",
        "CONNECT ",
        "CONNECT a:",
        "CONNECT [",
        "OPTIONS *",
        "PRI * HTTP/2.0\r\n",
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        "\u{16}\u{3}",
        "\u{16}\u{3}\u{1}\0\0\u{1}",
    ]);
    let tail = prop::collection::vec(prop_oneof![any::<u8>(), prop::sample::select(b"aZ9/*:[]. \r\n".to_vec())], 0..90);
    (starts, tail).prop_map(|(start, tail)| [start.as_bytes(), &tail].concat())
}

proptest! {
    #[test]
    fn a_longer_prefix_never_changes_a_decision(bytes in nearly()) {
        let mut decided = Detected::More;
        for end in 0..=bytes.len() {
            let now = detect(&bytes[..end]);
            if decided != Detected::More {
                prop_assert_eq!(now, decided, "at {} of {:?}", end, bytes);
            }
            decided = now;
            prop_assert!(end < PEEK_LIMIT || now != Detected::More, "{:?}", bytes);
        }
    }
}
