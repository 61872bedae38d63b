//! RFC 7541, Appendix C.

use super::*;

fn bytes(hex: &str) -> Vec<u8> {
    let hex: String = hex.split_whitespace().collect();
    (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect()
}

/// Decodes `hex`, and says what the table holds then, the newest first.
fn check(decoder: &mut Decoder, hex: &str, wanted: &[(&str, &str)], table: &[(&str, &str)]) {
    assert_eq!(decode(decoder, &bytes(hex)).unwrap(), plain(wanted), "{hex}");
    for (index, (name, value)) in table.iter().enumerate() {
        let indexed = [0x80 | (62 + index) as u8];
        assert_eq!(decode(decoder, &indexed).unwrap(), plain(&[(name, value)]), "{hex}");
    }
    assert_eq!(decode(decoder, &[0x80 | (62 + table.len()) as u8]), Err(Error::Index), "{hex}");
}

#[test]
fn numbers() {
    for (value, bits, hex) in [(10, 5, "0a"), (1337, 5, "1f9a0a"), (42, 8, "2a")] {
        let mut out = Vec::new();
        integer::put(value, bits, 0, &mut out);
        assert_eq!(out, bytes(hex));
        let mut rest = &out[..];
        assert_eq!(integer::take(&mut rest, bits), Ok(value));
        assert!(rest.is_empty());
    }
}

#[test]
fn fields() {
    let new = || Decoder::new(4096);
    let custom = [("custom-key", "custom-header")];
    check(&mut new(), "400a 6375 7374 6f6d 2d6b 6579 0d63 7573 746f 6d2d 6865 6164 6572", &custom, &custom);
    check(&mut new(), "040c 2f73 616d 706c 652f 7061 7468", &[(":path", "/sample/path")], &[]);
    let never = decode(&mut new(), &bytes("1008 7061 7373 776f 7264 0673 6563 7265 74")).unwrap();
    assert_eq!(never, [(b"password".to_vec(), b"secret".to_vec(), true)]);
    check(&mut new(), "82", &[(":method", "GET")], &[]);
}

const FIRST: &[(&str, &str)] =
    &[(":method", "GET"), (":scheme", "http"), (":path", "/"), (":authority", "www.example.com")];
const SECOND: &[(&str, &str)] = &[
    (":method", "GET"),
    (":scheme", "http"),
    (":path", "/"),
    (":authority", "www.example.com"),
    ("cache-control", "no-cache"),
];
const THIRD: &[(&str, &str)] = &[
    (":method", "GET"),
    (":scheme", "https"),
    (":path", "/index.html"),
    (":authority", "www.example.com"),
    ("custom-key", "custom-value"),
];

fn requests(blocks: [&str; 3]) {
    let mut decoder = Decoder::new(4096);
    let table = [("custom-key", "custom-value"), ("cache-control", "no-cache"), (":authority", "www.example.com")];
    for (n, fields) in [FIRST, SECOND, THIRD].into_iter().enumerate() {
        check(&mut decoder, blocks[n], fields, &table[2 - n..]);
    }
}

#[test]
fn requests_without_huffman() {
    requests([
        "8286 8441 0f77 7777 2e65 7861 6d70 6c65 2e63 6f6d",
        "8286 84be 5808 6e6f 2d63 6163 6865",
        "8287 85bf 400a 6375 7374 6f6d 2d6b 6579 0c63 7573 746f 6d2d 7661 6c75 65",
    ]);
}

#[test]
fn requests_with_huffman() {
    requests([
        "8286 8441 8cf1 e3c2 e5f2 3a6b a0ab 90f4 ff",
        "8286 84be 5886 a8eb 1064 9cbf",
        "8287 85bf 4088 25a8 49e9 5ba9 7d7f 8925 a849 e95b b8e8 b4bf",
    ]);
}

/// The table has 256 bytes, so that entries have to go. Sizes are told by the peer; the example leaves that out.
fn responses(blocks: [&str; 3]) {
    let mut decoder = Decoder::new(4096);
    decode(&mut decoder, &bytes("3fe101")).unwrap();
    let (private, date) = (("cache-control", "private"), ("date", "Mon, 21 Oct 2013 20:13:21 GMT"));
    let location = ("location", "https://www.example.com");
    let found = [(":status", "302"), private, date, location];
    check(&mut decoder, blocks[0], &found, &[location, date, private, (":status", "302")]);
    let temporary = [(":status", "307"), private, date, location];
    check(&mut decoder, blocks[1], &temporary, &[(":status", "307"), location, date, private]);
    let date = ("date", "Mon, 21 Oct 2013 20:13:22 GMT");
    let cookie = ("set-cookie", "foo=ASDJKHQKBZXOQWEOPIUAXQWEOIU; max-age=3600; version=1");
    let gzip = ("content-encoding", "gzip");
    let ok = [(":status", "200"), private, date, location, gzip, cookie];
    check(&mut decoder, blocks[2], &ok, &[cookie, gzip, date]);
}

#[test]
fn responses_without_huffman() {
    responses([
        "4803 3330 3258 0770 7269 7661 7465 611d 4d6f 6e2c 2032 3120 4f63 7420 3230 3133 2032 303a 3133 3a32 3120
         474d 546e 1768 7474 7073 3a2f 2f77 7777 2e65 7861 6d70 6c65 2e63 6f6d",
        "4803 3330 37c1 c0bf",
        "88c1 611d 4d6f 6e2c 2032 3120 4f63 7420 3230 3133 2032 303a 3133 3a32 3220 474d 54c0 5a04 677a 6970 7738
         666f 6f3d 4153 444a 4b48 514b 425a 584f 5157 454f 5049 5541 5851 5745 4f49 553b 206d 6178 2d61 6765 3d33
         3630 303b 2076 6572 7369 6f6e 3d31",
    ]);
}

#[test]
fn responses_with_huffman() {
    responses([
        "4882 6402 5885 aec3 771a 4b61 96d0 7abe 9410 54d4 44a8 2005 9504 0b81 66e0 82a6 2d1b ff6e 919d 29ad 1718
         63c7 8f0b 97c8 e9ae 82ae 43d3",
        "4883 640e ffc1 c0bf",
        "88c1 6196 d07a be94 1054 d444 a820 0595 040b 8166 e084 a62d 1bff c05a 839b d9ab 77ad 94e7 821d d7f2 e6c7
         b335 dfdf cd5b 3960 d5af 2708 7f36 72c1 ab27 0fb5 291f 9587 3160 65c0 03ed 4ee5 b106 3d50 07",
    ]);
}
