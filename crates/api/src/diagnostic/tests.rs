use super::*;
use crate::object::Kind;

fn sample() -> Diagnostic {
    Diagnostic {
        severity: Severity::Error,
        object: Some(ObjectKey::new(Kind::Service, "shop", "cart")),
        file: Some("shop.yaml".into()),
        line: 12,
        column: 5,
        field: "spec.ports".to_owned(),
        message: "is wrong".to_owned(),
        help: "make it right".to_owned(),
        source_line: Some("\tab\u{1b}x: [1]".to_owned()),
    }
}

#[test]
fn it_reads_like_a_compilers() {
    let expected = "error: spec.ports: is wrong\n  --> shop.yaml:12:5 (Service shop/cart)\n   |\n12 |  ab\u{fffd}x: [1]\n   |     ^\n   = help: make it right";
    assert_eq!(sample().render(false), expected);
}

#[test]
fn colours_add_nothing_but_colours() {
    let mut plain = sample().render(true);
    while let Some(start) = plain.find('\x1b') {
        let end = start + plain[start..].find('m').unwrap();
        plain.replace_range(start..=end, "");
    }
    assert_eq!(plain, sample().render(false));
}

#[test]
fn long_lines_are_cut_around_the_caret() {
    let mut diagnostic = sample();
    diagnostic.source_line = Some(format!("{}X{}", "a".repeat(5000), "b".repeat(5000)));
    diagnostic.column = 5001;
    let text = diagnostic.render(false);
    let lines: Vec<&str> = text.lines().collect();
    let caret = lines[4].find('^').unwrap();
    assert!(lines[3].len() < 200);
    assert_eq!(&lines[3][caret..=caret], "X");
}

#[test]
fn programs_read_what_it_wrote() {
    let json = serde_json::to_value(sample()).unwrap();
    assert_eq!((json["severity"].as_str(), json["line"].as_u64()), (Some("error"), Some(12)));
    assert_eq!(serde_json::from_value::<Diagnostic>(json).unwrap(), sample());
    let bare = serde_json::to_value(Diagnostic::new(Severity::Notice, "x")).unwrap();
    assert!(bare.get("help").is_none() && bare.get("file").is_none());
}
