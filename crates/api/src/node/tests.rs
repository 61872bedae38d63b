use std::fmt::Write as _;

use super::*;

fn one(text: &str) -> Document {
    let mut documents = parse(0, text);
    assert_eq!(documents.len(), 1, "{text}");
    documents.remove(0)
}

fn show(node: &Node) -> String {
    match &node.value {
        Value::Scalar(scalar) => scalar.text.clone(),
        Value::List(items) => format!("[{}]", items.iter().map(show).collect::<Vec<_>>().join(",")),
        Value::Map(map) => {
            let entries: Vec<_> = map.iter().map(|e| format!("{}:{}", e.key, show(&e.value))).collect();
            format!("{{{}}}", entries.join(","))
        }
    }
}

#[test]
fn files_are_cut_at_markers_alone() {
    let text = "# head\n%YAML 1.2\n---\na: 1\n--- # two\nb: |\n  ---\n  ...\n...\nc: 3\n---\n---\n# empty\n";
    let parts: Vec<_> = split(text).into_iter().map(|(line, part)| (line, part.lines().nth(1))).collect();
    assert_eq!(parts, [(2, Some("a: 1")), (4, Some("b: |")), (9, None)]);
    assert_eq!(split("---a: 1\n").len(), 1, "three dashes alone are a marker");
    assert!(split("").is_empty());
    assert_eq!(split("a: 1\r\n---\r\nb: 2\r\n").len(), 2);
}

#[test]
fn values_have_their_places() {
    let document = &parse(10, "a:\n  - x\n  - {ö: y, b: z}\n")[0];
    let Some(Node { value: Value::Map(map), .. }) = &document.root else { panic!() };
    let Value::List(items) = &map[0].value.value else { panic!() };
    let Value::Map(inner) = &items[1].value else { panic!() };
    let place = |p: Position| (p.line, p.column);
    assert_eq!(place(map[0].at), (11, 1));
    assert_eq!(place(items[0].at), (12, 5));
    assert_eq!((place(inner[1].at), place(inner[1].value.at)), ((13, 12), (13, 15)));
}

#[test]
fn aliases_and_merges_are_expanded() {
    let document = one("base: &b {a: 1, b: 2}\nuse: *b\nmerged: {<<: *b, b: 3, c: 4}\nlate: {b: 5, <<: *b}\n");
    assert!(document.faults.is_empty(), "{:?}", document.faults);
    let shown = show(&document.root.unwrap());
    assert_eq!(shown, "{base:{a:1,b:2},use:{a:1,b:2},merged:{a:1,b:3,c:4},late:{b:5,a:1}}");
}

#[test]
fn faults_say_what_and_where() {
    let deep = "[".repeat(MAX_DEPTH + 1);
    let wide = format!("[{}]", "1,".repeat(MAX_NODES));
    let mut laughs = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n".to_owned();
    let mut deepening = "a0: &a0 [x]\n".to_owned();
    for i in 1..40 {
        let aliases = vec![format!("*a{}", i - 1); 9].join(", ");
        let _ = writeln!(laughs, "a{i}: &a{i} [{aliases}]");
        let _ = writeln!(deepening, "a{i}: &a{i} [[*a{}]]", i - 1);
    }
    let long = format!("a: &a {}\nb: [{}]\n", "x".repeat(100_000), "*a,".repeat(1000));
    let cases: [(&str, (u32, u32), &str); 10] = [
        ("a: 1\nb: 2\na: 3\n", (3, 1), "written twice, first on line 1"),
        ("a: [1\nb: 2\n", (2, 2), "not valid YAML"),
        ("a:\n\t- b\n", (2, 0), "not valid YAML"),
        ("? [a]\n: b\n", (1, 3), "a key must be a text"),
        ("a: !mine x\n", (1, 10), "!mine means nothing"),
        ("a: *nowhere\n", (1, 4), "not valid YAML"),
        ("a: &a [*a]\n", (1, 8), "inside the value that it names"),
        (&wide, (1, 200_000), "100000 keys and values"),
        (&laughs, (5, 0), "100000 keys and values"),
        (&long, (2, 0), "100000 keys and values"),
    ];
    for (text, (line, column), message) in cases {
        let fault = one(text).faults.remove(0);
        let shown = &text[..text.len().min(60)];
        assert!(fault.message.contains(message), "{shown}: {fault:?}");
        assert_eq!(fault.at.line, line, "{shown}: {fault:?}");
        assert!(column == 0 || fault.at.column == column, "{shown}: {fault:?}");
    }
    assert!(!one(&deep).faults.is_empty());
    assert!(one(&deepening).faults[0].message.contains("64 deep"));
    assert_eq!(one("a:\n\t- b\n").faults[0].help, "indent with blanks, not with tabs");
}

#[test]
fn plain_scalars_have_types_and_quoted_ones_do_not() {
    let types = |text: &str| {
        let Some(Node { value: Value::Scalar(s), .. }) = one(text).root else { panic!("{text}") };
        (s.is_bool(), s.is_number())
    };
    for number in ["1", "-1", "1.5", ".5", "1e3", "+7"] {
        assert_eq!(types(number), (false, true), "{number}");
    }
    for text in ["'1'", "\"true\"", "!!str 1", "1a", "yes", "on", "infinity", "nan", "1.2.3", "10s"] {
        assert_eq!(types(text), (false, false), "{text}");
    }
    assert_eq!(types("true"), (true, false));
    for null in ["a:", "a: ~", "a: null"] {
        let Some(Node { value: Value::Map(map), .. }) = one(null).root else { panic!("{null}") };
        assert!(map[0].value.is_null());
    }
    assert!(!one("''").root.unwrap().is_null());
}
