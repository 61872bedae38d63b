use engine::RequestHead as _;

use super::*;

const GET: [(&str, &str); 4] = [(":method", "GET"), (":scheme", "http"), (":path", "/p?q"), (":authority", "h:8")];

fn request(fields: &[(&str, &str)], ended: bool) -> (Request, Receipt) {
    let mut request = Request::default();
    let limits = Limits { head_bytes: 1_000, headers: 8, target_bytes: 100, ..Limits::default() };
    let receipt = request.receive(&limits, ended, |block| {
        fields.iter().for_each(|(name, value)| block.field(name.as_bytes(), value.as_bytes(), false));
        Ok::<(), ()>(())
    });
    (request, receipt.unwrap())
}

fn response(fields: &[(&str, &str)], head: bool, ended: bool) -> (Response, Receipt) {
    let mut response = Response::default();
    let receipt = response.receive(&Limits::default(), ended, head, |block| {
        fields.iter().for_each(|(name, value)| block.field(name.as_bytes(), value.as_bytes(), false));
        Ok::<(), ()>(())
    });
    (response, receipt.unwrap())
}

fn with(more: &[(&'static str, &'static str)]) -> Vec<(&'static str, &'static str)> {
    [&GET, more].concat()
}

#[test]
fn the_engine_sees_http_2_heads() {
    let (head, receipt) = request(&with(&[("x", "1"), ("host", "H:8"), ("x", "2")]), true);
    assert_eq!(receipt, Receipt::Whole);
    assert_eq!((head.method(), head.path(), head.query(), head.authority()), ("GET", "/p", Some("q"), "h:8"));
    assert_eq!((head.header("x"), head.version(), head.form()), (Some(b"1".as_slice()), Version::Http2, Form::Origin));
    let mut seen = Vec::new();
    head.each_value("x", &mut |value| seen.push(value.to_vec()));
    assert_eq!(seen, [b"1", b"2"]);
    let (head, receipt) = request(&[(":method", "CONNECT"), (":authority", "h:1")], false);
    assert_eq!((receipt, head.form(), head.authority()), (Receipt::Whole, Form::Authority, "h:1"));
    let options = [(":method", "OPTIONS"), (":scheme", "http"), (":path", "*"), ("host", "h")];
    let (head, receipt) = request(&options, true);
    assert_eq!((receipt, head.form(), head.path(), head.authority()), (Receipt::Whole, Form::Asterisk, "*", "h"));
}

#[test]
fn what_breaks_the_rules_is_malformed() {
    let long = "m".repeat(METHOD_BYTES + 1);
    for fields in [
        with(&[("X", "1")]),
        with(&[("", "1")]),
        with(&[("a b", "1")]),
        with(&[("x:", "1")]),
        with(&[("x", "a\r\nb")]),
        with(&[("x", "a\0")]),
        with(&[("x", " a")]),
        with(&[("x", "a\t")]),
        with(&[("connection", "close")]),
        with(&[("keep-alive", "1")]),
        with(&[("proxy-connection", "close")]),
        with(&[("transfer-encoding", "chunked")]),
        with(&[("upgrade", "h2c")]),
        with(&[("te", "gzip")]),
        with(&[("content-length", "+1")]),
        with(&[("content-length", "0"), ("content-length", "0")]),
        with(&[("content-length", "1")]),
        with(&[("x", "1"), (":path", "/")]),
        with(&[(":path", "/")]),
        with(&[(":status", "200")]),
        with(&[(":protocol", "websocket")]),
        GET[1..].to_vec(),
        vec![GET[0], GET[2], GET[3]],
        vec![GET[0], GET[1], GET[3]],
        vec![GET[0], GET[1], (":path", "")],
        vec![GET[0], GET[1], (":path", "/a b")],
        vec![GET[0], GET[1], (":path", "/a#b")],
        vec![GET[0], GET[1], (":path", "/\u{e9}")],
        vec![(":method", "G T"), GET[1], GET[2]],
        vec![(":method", &long), GET[1], GET[2]],
        vec![(":method", ""), GET[1], GET[2]],
        vec![GET[0], GET[1], GET[2], (":authority", "a b")],
        vec![(":method", "CONNECT"), GET[1], GET[2], GET[3]],
        vec![(":method", "CONNECT")],
    ] {
        let (_, receipt) = request(&fields, true);
        assert!(matches!(receipt, Receipt::Malformed(_)), "{fields:?}: {receipt:?}");
    }
}

#[test]
fn what_is_not_served_can_be_answered() {
    let long = "/".repeat(101);
    let large = "x".repeat(1_000);
    for (fields, reason) in [
        (with(&[("host", "other")]), Reason::BadRequest),
        (with(&[("host", "h:8"), ("host", "h:8")]), Reason::BadRequest),
        (vec![GET[0], GET[1], GET[2], (":authority", "u@h")], Reason::BadRequest),
        (vec![GET[0], GET[1], (":path", "*"), GET[3]], Reason::BadRequest),
        (vec![GET[0], GET[1], (":path", "p"), GET[3]], Reason::BadRequest),
        (vec![GET[0], GET[1], (":path", &long), GET[3]], Reason::TargetTooLong),
        (with(&[("x", &large.clone().leak()[..])]), Reason::HeadTooLarge),
        (with(&[("x", "1"); 9]), Reason::HeadTooLarge),
    ] {
        let (head, receipt) = request(&fields, true);
        assert!(matches!(receipt, Receipt::Refused(problem) if problem.reason == reason), "{fields:?}: {receipt:?}");
        assert_eq!(head.method(), "GET");
        // Nothing of it may be looked at in vain.
        let _ = (head.path(), head.query(), head.authority(), head.is_grpc());
    }
    assert_eq!(request(&with(&[("x", "1"); 8]), true).1, Receipt::Whole);
}

#[test]
fn framing_comes_from_http_2() {
    let of = |fields: &[(&'static str, &'static str)], ended| request(&with(fields), ended).0.framing();
    assert_eq!(of(&[], true), Framing::None);
    assert_eq!(of(&[], false), Framing::Chunked);
    assert_eq!(of(&[("content-length", "3")], false), Framing::Length(3));
    assert_eq!(of(&[("content-length", "0")], true), Framing::Length(0));
    let answer = |status, fields: &[(&'static str, &'static str)], head, ended| {
        let (response, receipt) = response(&[&[(":status", status)], fields].concat(), head, ended);
        assert_eq!(receipt, Receipt::Whole);
        response.framing()
    };
    let two = [("content-length", "2")];
    assert_eq!(answer("200", &[], false, false), Framing::Chunked);
    assert_eq!(answer("200", &[], false, true), Framing::Length(0));
    assert_eq!(answer("200", &two, false, false), Framing::Length(2));
    assert_eq!(answer("200", &two, true, true), Framing::None);
    assert_eq!(answer("304", &two, false, true), Framing::None);
    assert_eq!(answer("204", &[], false, true), Framing::None);
    assert_eq!(answer("103", &[], false, false), Framing::None);
}

#[test]
fn answers_that_break_the_rules_are_malformed() {
    for (fields, ended) in [
        (vec![], true),
        (vec![(":status", "20")], true),
        (vec![(":status", "099")], true),
        (vec![(":status", "101")], false),
        (vec![(":status", "2000")], true),
        (vec![(":status", "100")], true),
        (vec![(":status", "200"), (":status", "200")], true),
        (vec![(":status", "200"), (":method", "GET")], true),
        (vec![(":status", "200"), ("content-length", "2")], true),
        (vec![(":status", "200"), ("connection", "close")], true),
    ] {
        let (_, receipt) = response(&fields, false, ended);
        assert!(matches!(receipt, Receipt::Malformed(_)), "{fields:?}: {receipt:?}");
    }
    let large = "x".repeat(70_000);
    let (_, receipt) = response(&[(":status", "200"), ("x", &large)], false, true);
    assert!(matches!(receipt, Receipt::Refused(problem) if problem.reason == Reason::UpstreamProtocol));
}

#[test]
fn trailers_have_no_pseudo_fields() {
    let receive = |name: &str| {
        let mut trailers = Fields::default();
        trailers.receive(&Limits::default(), |block| {
            block.field(name.as_bytes(), b"0", false);
            Ok::<(), ()>(())
        })
    };
    assert_eq!(receive("grpc-status"), Ok(Receipt::Whole));
    assert!(matches!(receive(":status"), Ok(Receipt::Malformed(_))));
    assert!(matches!(receive("Grpc-Status"), Ok(Receipt::Malformed(_))));
}

proptest::proptest! {
    /// What is looked at eight bytes at a time is what the tables say.
    #[test]
    fn words_of_names_and_values_are_checked_as_their_bytes_are(
        usual in "[a-z-]{0,40}",
        strange in proptest::collection::vec((0_usize..40, proptest::num::u8::ANY), 0..3),
    ) {
        let mut bytes = usual.into_bytes();
        for (at, byte) in strange {
            if let Some(place) = bytes.get_mut(at) {
                *place = byte;
            }
        }
        proptest::prop_assert_eq!(is_name(&bytes), all_in(&IN_NAME, &bytes));
        proptest::prop_assert_eq!(is_value(&bytes), all_in(&IN_VALUE, &bytes));
    }
}
