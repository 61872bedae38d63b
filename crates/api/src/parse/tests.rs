use std::fmt::Write as _;

use proptest::prelude::*;

use super::*;
use crate::TargetKind;

/// A document of this kind with this `spec`, in flow style.
pub(crate) fn document(kind: &str, spec: &str) -> String {
    let kind = Kind::ALL.iter().copied().find(|k| k.name() == kind).unwrap();
    let name = if kind == Kind::Mesh { "default" } else { "x" };
    format!("apiVersion: {}\nkind: {kind}\nmetadata: {{name: {name}}}\nspec: {spec}\n", written(kind))
}

pub(crate) fn good(text: &str) -> Spec {
    let mut parsed = parse("f.yaml", text.as_bytes());
    assert!(parsed.diagnostics.is_empty(), "{text}\n{:#?}", parsed.diagnostics);
    assert_eq!(parsed.objects.len(), 1, "{text}");
    parsed.objects.remove(0).spec
}

/// `field: message | help` of every diagnostic, the severity before it unless it is an error.
pub(crate) fn said(text: &str) -> Vec<String> {
    let say = |d: Diagnostic| {
        let severity = if d.is_error() { String::new() } else { format!("{} ", d.severity.name()) };
        let help = if d.help.is_empty() { String::new() } else { format!(" | {}", d.help) };
        format!("{severity}{}: {}{help}", d.field, d.message)
    };
    parse("f.yaml", text.as_bytes()).diagnostics.into_iter().map(say).collect()
}

/// Each case is a kind, a `spec`, and what the only diagnostic says, up to a `…`.
pub(crate) fn expect(cases: &[(&str, &str, &str)]) {
    for (kind, spec, message) in cases {
        let said = said(&document(kind, spec));
        let fits = match message.strip_suffix('…') {
            Some(start) => said.len() == 1 && said[0].starts_with(start),
            None => said == [*message],
        };
        assert!(fits, "{kind} {spec}\nexpected {message:?}\nfound {said:#?}");
    }
}

#[test]
fn a_policy_that_cannot_be_used_denies_what_it_names() {
    let targets = |spec: &str| {
        let parsed = parse("f", document("AuthorizationPolicy", spec).as_bytes());
        let fallback = parsed.failed.into_iter().next().unwrap().fallback.unwrap();
        let Spec::AuthorizationPolicy(policy) = fallback.spec else { panic!() };
        assert!(!policy.unusable.unwrap().is_empty() && policy.rules.is_empty());
        policy.targets.iter().map(|t| (t.kind, t.name.clone())).collect::<Vec<_>>()
    };
    let readable = targets("{targetRefs: [{kind: Service, name: a}], action: x}");
    assert_eq!(readable, [(TargetKind::Service, "a".to_owned())]);
    for unreadable in
        ["{targetRefs: [{kind: Service, name: a}, {kind: Srvice, name: b}]}", "{targetRefs: a}", "[]", "{a: 1, a: 2}"]
    {
        assert_eq!(targets(unreadable), [(TargetKind::Namespace, "default".to_owned())], "{unreadable}");
    }
    let other = parse("f", document("Service", "{}").as_bytes());
    assert!(other.failed[0].fallback.is_none());
}

#[test]
fn heads_of_documents() {
    let meta = |text: &str| {
        said(&format!("apiVersion: v1\nkind: Service\nmetadata: {text}\nspec: {{ports: [{{port: 1}}]}}\n"))
    };
    let head = |version: &str, kind: &str| {
        said(&format!("apiVersion: {version}\nkind: {kind}\nmetadata: {{name: a}}\nspec: {{}}\n"))
    };
    let cases = [
        (said("[]"), ": expected a mapping, found a list"),
        (said("kind: x"), ": the field apiVersion is missing"),
        (said("apiVersion: v1\nkind: Service\nspec: {}\n"), ": the field metadata is missing"),
        (meta("{}"), "metadata: the field name is missing"),
        (meta("{name: A}"), "metadata.name: \"A\" must be lower-case letters"),
        (meta("{name: 1}"), "metadata.name: expected a text, found the number 1 | write it in quotes: \"1\""),
        (meta("{name: a, namespace: b.c}"), "metadata.namespace: \"b.c\" must be"),
        (
            meta("{name: a, lables: {}}"),
            "metadata.lables: there is no field \"lables\" here | did you mean \"labels\"?",
        ),
        (meta("{name: a, creationTimestamp: now}"), "metadata.creationTimestamp: \"now\" is not a time"),
        (head("v1", "Sevice"), "kind: there is no kind \"Sevice\" here | did you mean \"Service\"?"),
        (head("v1", "ConfigMap"), "notice kind: ConfigMap does not concern the mesh"),
        (head("gateway.networking.k8s.io/v1", "GatewayClass"), "notice kind: GatewayClass does not concern the mesh"),
        (head("gateway.networking.k8s.io/v1", "TLSRoute"), "kind: the kind TLSRoute is not implemented yet"),
        (head("heddle.dev/v1alpha1", "ExternalService"), "kind: the kind ExternalService is not implemented yet"),
        (
            head("gateway.networking.k8s.io/v2", "HTTPRoute"),
            "apiVersion: HTTPRoute has no version \"v2\" that is read here | write gateway.networking.k8s.io/v1",
        ),
        (head("v1", "Deployment"), "apiVersion: there is no Deployment in \"v1\" | write apiVersion: apps/v1"),
    ];
    for (said, message) in cases {
        assert!(said.len() == 1 && said[0].starts_with(message), "expected {message}\nfound {said:#?}");
    }
    let mesh = head("heddle.dev/v1alpha1", "Mesh");
    assert_eq!(mesh, ["metadata.name: there is one Mesh, and its name is \"default\" | write name: default"]);
    let time = "apiVersion: v1\nkind: Service\nmetadata: {name: a, creationTimestamp: '1970-01-01T00:00:01Z'}\nspec: {ports: [{port: 1}]}";
    assert_eq!(parse("f", time.as_bytes()).objects[0].meta.created_unix_ms, 1000);
}

#[test]
fn one_bad_document_hides_no_other() {
    let ok = document("Service", "{ports: [{port: 1}]}");
    let text = format!(
        "{}---\n{}---\nkind: [\n---\n{}",
        ok.replace("name: x", "name: a"),
        document("Service", "{}"),
        ok.replace("name: x", "name: b")
    );
    let parsed = parse("f", text.as_bytes());
    let names: Vec<_> = parsed.objects.iter().map(|o| o.meta.name.to_string()).collect();
    assert_eq!(names, ["a", "b"]);
    assert_eq!(parsed.failed[0].key.to_string(), "Service default/x");
    assert!(parsed.incomplete);
    let lines: Vec<_> = parsed.diagnostics.iter().map(|d| d.line).collect();
    assert_eq!(lines, [9, 11]);
    assert_eq!(parsed.diagnostics[0].source_line.as_deref(), Some("spec: {}"));
    let location = parsed.objects[1].location.as_ref().unwrap();
    assert_eq!(
        (location.line, location.position("spec.ports[0].port"), location.position("spec.nothing.x[3]")),
        (13, (16, 23), (16, 1))
    );
}

#[test]
fn lists_and_json_are_read() {
    let item =
        r#"{"apiVersion": "v1", "kind": "Service", "metadata": {"name": "a"}, "spec": {"ports": [{"port": 1}]}}"#;
    assert_eq!(parse("f", item.as_bytes()).objects.len(), 1);
    let pretty = item.replace(", ", ",\n\t");
    assert_eq!(parse("f", pretty.as_bytes()).objects.len(), 1, "JSON may be indented with tabs");
    let list =
        format!(r#"{{"apiVersion": "v1", "kind": "List", "items": [{item}, {}]}}"#, item.replace("\"a\"", "\"b\""));
    assert_eq!(parse("f", list.as_bytes()).objects.len(), 2);
    assert!(parse("f", b"# nothing\n---\n---\n").diagnostics.is_empty());
    assert_eq!(parse("f", "\u{feff}kind: x".as_bytes()).diagnostics[0].column, 1);
}

#[test]
fn limits_are_kept() {
    let one = |bytes: &[u8]| {
        let parsed = parse("f", bytes);
        assert!(parsed.incomplete);
        parsed.diagnostics.last().unwrap().message.clone()
    };
    assert_eq!(one(&vec![b' '; MAX_FILE + 1]), "the file is larger than 4 MiB");
    assert_eq!(parse("f", &vec![b' '; MAX_FILE]).diagnostics, []);
    assert_eq!(one(b"a: \xff"), "the file is not UTF-8 text");
    let skipped = |n: usize| "kind: K\napiVersion: a/v1\n---\n".repeat(n);
    assert!(!parse("f", skipped(MAX_DOCUMENTS).as_bytes()).incomplete);
    assert!(parse("f", skipped(MAX_DOCUMENTS + 1).as_bytes()).incomplete);
    let mut junk = String::new();
    for i in 0..5000 {
        let _ = writeln!(junk, "---\napiVersion: v1\nkind: Service\nmetadata: {{name: a{i}}}\nspec: {{}}");
    }
    let parsed = parse("f", junk.as_bytes());
    assert_eq!((parsed.failed.len(), parsed.diagnostics.len()), (5000, MAX_DIAGNOSTICS + 1));
}

/// Every example of the documentation, for texts that are nearly right.
const EXAMPLES: &str = include_str!("../../../../docs/resources.md");

proptest! {
    #[test]
    fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let _ = parse("f", &bytes);
    }

    #[test]
    fn no_yaml_panics(text in "([-{}\\[\\],:&*!|>'\"%#?~ \n\t<a1]|---\n|kind: Service\n|apiVersion: v1\n|<<: \\*a){0,60}") {
        for diagnostic in parse("f", text.as_bytes()).diagnostics {
            let _ = diagnostic.render(true);
        }
    }

    #[test]
    fn no_damaged_example_panics(start in 0usize..20_000, cut in 0usize..40, put in "[\\[\\]{}:,&*a1 \n-]{0,5}") {
        let blocks: String = EXAMPLES.split("```").skip(1).step_by(2).map(|b| b.replacen("yaml\n", "---\n", 1)).collect();
        let characters: Vec<char> = blocks.chars().collect();
        let start = start % characters.len();
        let end = (start + cut).min(characters.len());
        let damaged: String = characters[..start].iter().copied().chain(put.chars()).chain(characters[end..].iter().copied()).collect();
        let parsed = parse("f", damaged.as_bytes());
        for diagnostic in crate::check(&parsed.objects).iter().chain(&parsed.diagnostics) {
            prop_assert!(diagnostic.line > 0 && diagnostic.column > 0, "{diagnostic:?}");
            let _ = diagnostic.render(false);
        }
    }

    #[test]
    fn what_is_serialized_reads_back(replicas in 0u32..10_000, name in "[a-z]{1,20}") {
        let spec = format!("{{replicas: {replicas}, selector: {{}}, template: {{spec: {{containers: [{{name: c, env: [{{name: {name}}}]}}]}}}}}}");
        let object = parse("f", document("Deployment", &spec).as_bytes()).objects.remove(0);
        let json = serde_json::to_string(&object).unwrap();
        let back: Object = serde_json::from_str(&json).unwrap();
        prop_assert!(back.same(&object));
    }
}
