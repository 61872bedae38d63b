use super::*;

fn read<'a>(method: &str, target: &'a str) -> Option<(Form, &'a str, &'a str, Option<&'a str>)> {
    let parts = parse(method, target).ok()?;
    let text = |span: Span| &target[span.range()];
    Some((parts.form, text(parts.authority), text(parts.path), parts.query.map(text)))
}

#[test]
fn takes_the_four_forms_apart() {
    let table = [
        ("GET", "/", (Form::Origin, "", "/", None)),
        ("GET", "/a/b?c=d?e", (Form::Origin, "", "/a/b", Some("c=d?e"))),
        ("GET", "//evil/x?", (Form::Origin, "", "//evil/x", Some(""))),
        ("GET", "http://h:80/a?b", (Form::Absolute, "h:80", "/a", Some("b"))),
        ("GET", "HTTPS://h", (Form::Absolute, "h", "", None)),
        ("GET", "http://h?b", (Form::Absolute, "h", "", Some("b"))),
        ("GET", "http://[::1]:8/", (Form::Absolute, "[::1]:8", "/", None)),
        ("OPTIONS", "*", (Form::Asterisk, "", "*", None)),
        ("CONNECT", "h:443", (Form::Authority, "h:443", "", None)),
        ("CONNECT", "[2001:db8::1]:443", (Form::Authority, "[2001:db8::1]:443", "", None)),
    ];
    for (method, target, expected) in table {
        assert_eq!(read(method, target), Some(expected), "{method} {target}");
    }
}

#[test]
fn refuses_other_targets() {
    let table = [
        ("GET", ""),
        ("GET", "a"),
        ("GET", "*"),
        ("GET", "h:80"),
        ("GET", "?a"),
        ("GET", "/a#b"),
        ("GET", "http:///a"),
        ("GET", "http://?a"),
        ("GET", "http://u:p@h/"),
        ("GET", "http://u@h/"),
        ("GET", "ftp://h/"),
        ("GET", "http:/h/"),
        ("GET", "http://h:x/"),
        ("GET", "http://a,b/"),
        ("GET", "http://[::1/"),
        ("GET", "http://[zz]/"),
        ("GET", "http://[fe80::1%25eth0]/"),
        ("CONNECT", "/"),
        ("CONNECT", "h"),
        ("CONNECT", "h:"),
        ("CONNECT", "h:0"),
        ("CONNECT", ":443"),
        ("CONNECT", "h:443/"),
        ("CONNECT", "h:65536"),
        ("CONNECT", "http://h:443"),
        ("CONNECT", "*"),
        ("CONNECT", ""),
        ("OPTIONS", "**"),
    ];
    for (method, target) in table {
        assert_eq!(read(method, target), None, "{method} {target}");
    }
}

#[test]
fn authorities_are_strict() {
    let table = [
        ("", Some(None)),
        ("cart", Some(None)),
        ("cart.shop.svc:80", Some(Some(80))),
        ("a_b-c~d", Some(None)),
        ("h:", Some(None)),
        ("1.2.3.4:65535", Some(Some(65535))),
        ("[::ffff:1.2.3.4]", Some(None)),
        ("[::1]x", None),
        ("[::1", None),
        ("::1", None),
        (":80", None),
        ("h:80:80", None),
        ("h:-1", None),
        ("h:000080", None),
        ("a b", None),
        ("a/b", None),
        ("a\\b", None),
        ("u@h", None),
        ("a%2eb", None),
        ("a,b", None),
        ("é", None),
    ];
    for (value, expected) in table {
        assert_eq!(authority(value.as_bytes()).ok(), expected, "{value}");
    }
}
