use super::*;

fn fields(lines: &[(&str, &str)]) -> Fields {
    let mut fields = Fields::default();
    for (name, value) in lines {
        fields.push(name.as_bytes(), value.as_bytes());
    }
    fields
}

#[test]
fn one_length_or_chunked_alone_is_taken() {
    let of = |lines: &[(&str, &str)]| declared(&fields(lines), Version::Http11);
    assert_eq!(of(&[]), Ok(None));
    assert_eq!(of(&[("Content-Length", "0")]), Ok(Some(Framing::Length(0))));
    assert_eq!(of(&[("content-length", "0042")]), Ok(Some(Framing::Length(42))));
    assert_eq!(of(&[("Content-Length", "18446744073709551615")]), Ok(Some(Framing::Length(u64::MAX))));
    assert_eq!(of(&[("Transfer-Encoding", "Chunked")]), Ok(Some(Framing::Chunked)));
}

#[test]
fn ambiguities_are_refused() {
    let both = [("Content-Length", "1"), ("Transfer-Encoding", "chunked")];
    let table: &[&[(&str, &str)]] = &[
        &both,
        &[both[1], both[0]],
        &[("Content-Length", "1"), ("Content-Length", "2")],
        &[("Content-Length", "1"), ("Content-Length", "1")],
        &[("Content-Length", "1, 1")],
        &[("Content-Length", "+1")],
        &[("Content-Length", "-1")],
        &[("Content-Length", "0x1")],
        &[("Content-Length", "1 1")],
        &[("Content-Length", "1;a")],
        &[("Content-Length", "")],
        &[("Content-Length", "18446744073709551616")],
        &[("Content-Length", "99999999999999999999999")],
        &[("Transfer-Encoding", "chunked"), ("Transfer-Encoding", "chunked")],
        &[("Transfer-Encoding", "gzip"), ("Transfer-Encoding", "chunked")],
        &[("Transfer-Encoding", "chunked, chunked")],
        &[("Transfer-Encoding", "chunked, gzip")],
        &[("Transfer-Encoding", "chunked,")],
        &[("Transfer-Encoding", "xchunked")],
        &[("Transfer-Encoding", "chunked;q=1")],
        &[("Transfer-Encoding", "\"chunked\"")],
        &[("Transfer-Encoding", "identity")],
        &[("Transfer-Encoding", "")],
    ];
    for lines in table {
        let problem = declared(&fields(lines), Version::Http11).expect_err(&format!("{lines:?}"));
        assert_eq!(problem.reason, Reason::BadRequest, "{lines:?}");
    }
    let coded = declared(&fields(&[("Transfer-Encoding", "gzip, chunked")]), Version::Http11);
    assert_eq!(coded.unwrap_err().reason, Reason::CodingNotSupported);
    let old = declared(&fields(&[("Transfer-Encoding", "chunked")]), Version::Http10);
    assert_eq!(old.unwrap_err().reason, Reason::BadRequest);
}

#[test]
fn connection_options_decide_reuse() {
    let table = [
        (Version::Http11, "", true),
        (Version::Http11, "close", false),
        (Version::Http11, "keep-alive, Close", false),
        (Version::Http11, "upgrade", true),
        (Version::Http10, "", false),
        (Version::Http10, "Keep-Alive", true),
        (Version::Http10, "keep-alive, close", false),
    ];
    for (version, value, keep_alive) in table {
        assert_eq!(steering(&fields(&[("Connection", value)]), version).keep_alive, keep_alive, "{version:?} {value}");
    }
    let named = steering(&fields(&[("Connection", "upgrade"), ("connection", "x-a")]), Version::Http11);
    assert_eq!(named, Steering { keep_alive: true, upgrade: true, nominates: true });
    assert!(!steering(&fields(&[("Connection", "TE, close, keep-alive, upgrade")]), Version::Http11).nominates);
}

#[test]
fn framing_follows_the_client() {
    assert_eq!(Framing::Chunked.towards(Version::Http10), Framing::UntilClose);
    assert_eq!(Framing::UntilClose.towards(Version::Http11), Framing::Chunked);
    assert_eq!(Framing::UntilClose.towards(Version::Http10), Framing::UntilClose);
    assert_eq!(Framing::Length(3).towards(Version::Http10), Framing::Length(3));
}
